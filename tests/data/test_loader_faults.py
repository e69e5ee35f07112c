"""Workers that die, hang or fail, and samples that cannot be read: which error, which sample, which exit code."""

import errno
import gc
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from itertools import islice

import numpy as np
import pytest
import torch

from segtrain.data.board import Board
from segtrain.data.loader import LoaderOptions, eval_loader, train_loader
from segtrain.data.machine import shortage
from segtrain.data.sampler import TrainBatchSampler, substitutes
from segtrain.data.workers import receive
from segtrain.errors import DataError, MachineError
from segtrain.types import WHOLE, Sample, Shard

pytestmark = pytest.mark.timeout(60)  # where a fault is not noticed the loader would wait for ever

HOUR = 3600


def options(**changes):
    standard = {"batch_size": 1, "eval_batch_size": 2, "workers": 1, "drop_last": True, "timeout": 60}
    return LoaderOptions(**(standard | {"on_error": "raise", "max_skipped": 3} | changes))


class Faulty:
    """Items of 2x2 pixels that hold their index and epoch; `fault` is called with the index before one is read."""

    class_names = ("a", "b")
    palette = ((0, 0, 0), (1, 1, 1))
    ignore_index = 255
    in_channels = 3

    def __init__(self, fault, length=6):
        self.fault = fault
        self.length = length

    def __len__(self):
        return self.length

    def names(self):
        return [f"item{index}" for index in range(self.length)]

    def describe(self, index):
        return f"item{index} (files/{index}.png)"

    def __getitem__(self, key):
        epoch, index = key
        self.fault(index)
        image = np.full((2, 2, 3), index, np.uint8)
        image[..., 1] = epoch
        return Sample(image, np.zeros((2, 2), np.uint8), f"item{index}")


def at(*items, do):
    """A fault of these items only."""

    def fault(index):
        if index in items:
            do(index)

    return fault


def kill(number):
    return lambda index: os.kill(os.getpid(), number)


def sleep(index):
    time.sleep(HOUR)


def sleep_through_sigterm(index):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(HOUR)


class UnpicklableError(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")
        self.function = lambda: None


class DamagedError(UnpicklableError, DataError):
    pass


def raises(error):
    def fault(index):
        raise error

    return fault


def unreadable(index):
    raise DataError(f"files/{index}.png: truncated")


def evaluate(dataset, shard=WHOLE, **changes):
    lists = eval_loader(dataset, options(**changes), pin_memory=False, shard=shard)
    return [name for batches in lists for batch in batches for name in batch.names]


def train(dataset, count, start_batch=0, **changes):
    loader = train_loader(dataset, options(batch_size=2, **changes), 4, start_batch, pin_memory=False)
    return list(islice(loader, count))


def contents(batches):
    return [(batch.names, batch.images.tolist()) for batch in batches]


@pytest.fixture
def run_script(tmp_path):
    """`run_script(source, *wrapper)`: a Python program of its own, its source preceded by `import numpy as np`."""

    def run(source, *wrapper):
        script = tmp_path / "script.py"
        script.write_text("import numpy as np\n" + textwrap.dedent(source))
        command = [*wrapper, sys.executable, str(script)]
        return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)

    return run


@pytest.fixture
def no_worker_left():
    """Afterwards no worker is left running."""
    yield
    gc.collect()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            kill(signal.SIGKILL),
            "a loader worker was killed (SIGKILL) while it read sample {}; if the system ran out of",
        ),
        (
            kill(signal.SIGBUS),
            "a loader worker was killed (SIGBUS) while it read sample {}; shared memory is too small",
        ),
        (
            kill(signal.SIGSEGV),
            "a loader worker crashed (SIGSEGV) while it read sample {}; is that sample's file damaged?",
        ),
        (lambda index: os._exit(7), "a loader worker ended with exit code 7 while it read sample {}"),
        (raises(SystemExit(5)), "a loader worker ended with exit code 5 while it read sample {}"),
    ],
    ids=["SIGKILL", "SIGBUS", "SIGSEGV", "_exit", "sys.exit"],
)
@pytest.mark.usefixtures("no_worker_left")
def test_a_dead_worker_ends_the_run_with_the_sample_it_read(fault, said, workers):
    with pytest.raises(MachineError) as caught:
        evaluate(Faulty(at(3, do=fault)), workers=workers)
    assert said.format("item3 (files/3.png)") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.usefixtures("no_worker_left")
def test_a_worker_killed_between_two_batches_is_noticed_when_the_next_is_asked_for_and_nowhere_else():
    batches = iter(eval_loader(Faulty(at(do=None), length=50), options(workers=1), pin_memory=False))
    next(batches)
    (worker,) = multiprocessing.active_children()
    worker.kill()
    worker.join()
    time.sleep(0.05)  # torch's own handler would raise here, where a training step may be half done
    with pytest.raises(MachineError, match=r"\(SIGKILL\) (after it had|while it) read sample item\d+ "):
        next(batches)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(20))
@pytest.mark.usefixtures("no_worker_left")
def test_a_worker_killed_at_any_moment_is_noticed(trial):
    loader = train_loader(Faulty(at(do=None)), options(batch_size=4, workers=2), 0, trial, pin_memory=False)
    batches = iter(loader)
    next(batches)
    victim = multiprocessing.active_children()[trial % 2]
    killer = threading.Timer(0.005 * trial, victim.kill)
    killer.start()
    with pytest.raises(MachineError, match=r"a loader worker was killed \(SIGKILL\) .* sample"):
        for _ in batches:
            pass
    killer.join()


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("hang", [sleep, sleep_through_sigterm])
@pytest.mark.usefixtures("no_worker_left")
def test_a_hung_worker_ends_the_run_after_the_timeout_with_the_sample_it_reads(hang, workers):
    with pytest.raises(MachineError) as caught:
        evaluate(Faulty(at(3, do=hang)), workers=workers, timeout=0.5)
    assert "within data.timeout=0.5 s; one has been reading sample item3 (files/3.png) for " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3


@pytest.mark.usefixtures("no_worker_left")
def test_a_pass_given_up_early_does_not_wait_for_a_hung_worker():
    batches = iter(eval_loader(Faulty(at(3, 5, do=sleep)), options(workers=2), pin_memory=False))
    next(batches)
    batches.close()


@pytest.mark.usefixtures("no_worker_left")
def test_workers_do_not_heed_the_signals_that_a_scheduler_sends_to_all_processes():
    batches = iter(eval_loader(Faulty(at(do=None), length=50), options(), pin_memory=False))
    next(batches)
    (worker,) = multiprocessing.active_children()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(worker.pid, number)
    assert len(list(batches)) == 24


def test_a_program_ends_although_its_loader_hangs(run_script):
    done = run_script("""
        import time
        from segtrain.data.loader import LoaderOptions, eval_loader
        from segtrain.types import Sample

        class Hanging:
            names = describe = None
            def __len__(self):
                return 4
            def __getitem__(self, key):
                if key[1] > 0:
                    time.sleep(3600)
                return Sample(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), str(key[1]))

        batches = iter(eval_loader(Hanging(), LoaderOptions(1, 1, 2, True, 30, "raise", 0), pin_memory=False))
        print(next(batches)[0].names)
    """)
    assert (done.returncode, done.stdout) == (0, "('0',)\n")


@pytest.mark.usefixtures("no_worker_left")
def test_a_timeout_of_zero_waits_for_slow_samples():
    assert len(evaluate(Faulty(at(2, do=lambda index: time.sleep(0.6))), timeout=0)) == 6


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.usefixtures("no_worker_left")
def test_an_exception_that_cannot_be_sent_arrives_as_text_with_the_sample(workers):
    with pytest.raises(RuntimeError) as caught:
        evaluate(Faulty(at(3, do=raises(UnpicklableError("a", "bug")))), workers=workers)
    assert str(caught.value) == "reading sample item3 (files/3.png): UnpicklableError: a bug"
    assert "in fault" in "".join(caught.value.__notes__)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.usefixtures("no_worker_left")
def test_an_error_of_a_users_own_class_arrives_as_the_kind_of_ours_that_it_is(workers):
    with pytest.raises(DataError) as caught:
        evaluate(Faulty(at(3, do=raises(DamagedError("3.png", "damaged")))), workers=workers)
    assert str(caught.value) == "3.png damaged"
    assert type(caught.value) is DataError


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_does_not_suffice_to_read_a_sample_is_the_machines_fault(workers, error):
    with pytest.raises(MachineError, match=r"no memory left to read sample item3 .*; lower data\.workers"):
        evaluate(Faulty(at(3, do=raises(error))), workers=workers)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("unable to allocate shared memory(shm) for file </torch_6_1>: No space left on device (28)"),
            "shm",
        ),
        (RuntimeError("unable to write to file </torch_6_1>: No space left on device (28)"), "shm"),
        (OSError(errno.ENOSPC, "No space left on device"), "shm"),
        (OSError(errno.EMFILE, "Too many open files"), "ulimit -n"),
        (RuntimeError("unable to open shared memory object </torch_6_1>: Too many open files (24)"), "ulimit -n"),
        (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "lower data.workers"),
        (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), "lower data.workers"),
        (RuntimeError("unable to mmap 8 bytes from file </torch_6_1>: Cannot allocate memory (12)"), "data.workers"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_the_machine_lacks_is_named_with_its_remedy(error, said):
    problem = shortage(error)
    assert isinstance(problem, MachineError)
    assert said in str(problem)
    assert "\n" not in str(problem)


class Unstartable:
    """A loader whose workers cannot be started."""

    num_workers = 1

    def __init__(self, error):
        self.error = error

    def __iter__(self):
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), MachineError, "shared memory is too small"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), MachineError, "lower data.workers"),
        (RuntimeError("DataLoader worker (pid 5) is killed by signal: Killed. "), MachineError, "died before it read"),
        (RuntimeError("something else"), RuntimeError, "something else"),
    ],
    ids=["shared memory", "memory", "killed", "bug"],
)
def test_workers_that_cannot_be_started_are_the_machines_fault_where_it_lacks_something(error, kind, said):
    with pytest.raises(kind, match=said):
        next(receive(Unstartable(error), Board(1), str, 60))


def test_other_exceptions_are_no_shortage():
    assert shortage(RuntimeError("stack expects each tensor to be equal size")) is None
    assert shortage(OSError(errno.ENOENT, "No such file or directory")) is None


def test_shared_memory_that_is_too_small_is_one_line_with_the_remedy(run_script):
    small = ["unshare", "-m", "sh", "-c", 'mount -t tmpfs -o size=5m tmpfs /dev/shm && exec "$@"', "sh"]
    try:
        subprocess.run([*small, "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no right to mount a small /dev/shm of its own")
    done = run_script(
        """
        from segtrain.data.loader import LoaderOptions, eval_loader
        from segtrain.errors import MachineError
        from segtrain.types import Sample

        class Large:
            names = None
            def __len__(self):
                return 8
            def describe(self, index):
                return str(index)
            def __getitem__(self, key):
                return Sample(np.zeros((1024, 1024, 3), np.uint8), np.zeros((1024, 1024), np.uint8), str(key[1]))

        try:
            list(eval_loader(Large(), LoaderOptions(1, 4, 2, True, 30, "raise", 0), pin_memory=False))
        except MachineError as error:
            print(error.exit_code, error)
        """,
        *small,
    )
    assert done.stdout.startswith("3 shared memory is too small for the batches that the loader's workers send: ")
    assert "of 5.0 MiB are free in /dev/shm; enlarge it (docker run --shm-size=8g, or --ipc=host), lower" in done.stdout
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


# data.on_error=skip


def skipping(*unreadable_items, length=6):
    return Faulty(at(*unreadable_items, do=unreadable), length)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_unreadable_sample_is_left_out_of_an_evaluation(workers):
    names = evaluate(skipping(1, 4), workers=workers, on_error="skip")
    assert names == ["item0", "item2", "item3", "item5"]


def test_a_list_of_an_evaluation_whose_items_are_all_unreadable_is_empty():
    loader = eval_loader(skipping(2, 3), options(workers=0, on_error="skip"), pin_memory=False)
    assert [[batch.names for batch in batches] for batches in loader] == [
        [("item0", "item1")],
        [],
        [("item4", "item5")],
    ]


def test_an_evaluation_without_any_readable_sample_is_an_error():
    with pytest.raises(DataError, match="none of the 2 evaluation samples can be read; the log says why"):
        evaluate(skipping(0, 1, length=2), on_error="skip", workers=0)


def test_one_of_several_processes_may_have_no_readable_sample():
    assert evaluate(skipping(1, length=2), Shard(1, 2), on_error="skip", workers=0) == []


def test_training_puts_the_first_readable_substitute_in_place_of_an_unreadable_sample():
    bad = (1, 4)
    expected = []
    sampler = TrainBatchSampler(6, 2, seed=4, drop_last=True, start_batch=0)
    for number in range(9):
        for epoch, index in sampler.batch(number):
            tried = [index, *substitutes(6, 4, epoch, index)]
            expected.append((epoch, next(item for item in tried if item not in bad)))
    batches = train(skipping(*bad), 9, on_error="skip", workers=0)
    pixels = torch.cat([batch.images[:, :, 0, 0] for batch in batches])
    assert [(epoch, item) for item, epoch, _ in pixels.tolist()] == expected


@pytest.mark.parametrize("workers", [1, 2])
def test_training_with_unreadable_samples_is_the_same_with_any_number_of_workers_and_after_a_resume(workers):
    dataset = skipping(1, 4)
    whole = train(dataset, 8, on_error="skip", workers=0)
    assert contents(train(dataset, 8, on_error="skip", workers=workers)) == contents(whole)
    assert contents(train(dataset, 5, start_batch=3, on_error="skip", workers=workers)) == contents(whole[3:])


def test_substitutes_are_all_the_other_items_in_an_order_of_seed_epoch_and_item():
    order = substitutes(50, seed=1, epoch=2, index=3)
    assert sorted([*order, 3]) == [*range(50)]
    assert order == substitutes(50, seed=1, epoch=2, index=3)
    for changed in ({"seed": 2}, {"epoch": 3}, {"index": 4}):
        assert order != substitutes(50, **({"seed": 1, "epoch": 2, "index": 3} | changed))


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_samples_are_listed_in_the_log_once(workers, caplog):
    caplog.set_level(logging.WARNING, "segtrain")
    loader = eval_loader(skipping(1, 4), options(workers=workers, on_error="skip"), pin_memory=False)
    for _ in range(2):
        list(loader)
    assert [record.getMessage() for record in caplog.records] == [
        "skipped sample item1 (1 of at most 3): files/1.png: truncated",
        "skipped sample item4 (2 of at most 3): files/4.png: truncated",
    ]
    assert loader.skipped.reasons == {"item1": "files/1.png: truncated", "item4": "files/4.png: truncated"}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.usefixtures("no_worker_left")
def test_more_unreadable_samples_than_allowed_end_the_run_with_their_list(workers):
    with pytest.raises(DataError) as caught:
        evaluate(skipping(1, 3, 4), workers=workers, on_error="skip", max_skipped=2)
    assert str(caught.value).splitlines() == [
        "3 samples could not be read, more than data.max_skipped=2:",
        "item1: files/1.png: truncated",
        "item3: files/3.png: truncated",
        "item4: files/4.png: truncated",
    ]
    assert caught.value.exit_code == 2


def test_as_many_unreadable_samples_as_allowed_are_skipped():
    assert len(evaluate(skipping(1, 3, 4), workers=0, on_error="skip", max_skipped=3)) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_training_ends_where_nothing_is_readable(workers):
    with pytest.raises(DataError, match="none of the training data's 3 samples can be read; the log says why"):
        train(skipping(0, 1, 2, length=3), 1, workers=workers, on_error="skip", max_skipped=5)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_bug_in_reading_is_never_skipped(on_error):
    with pytest.raises(RuntimeError, match="reading sample item3 "):
        evaluate(Faulty(at(3, do=raises(KeyError("x")))), workers=0, on_error=on_error)
