"""An exported file as a module that answers like the model it was made of, without that model's code."""

import io
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segtrain.errors import CheckpointError, ConfigError, one_line
from segtrain.export.described import KEYS, Format, Interface, format_of, interface_in
from segtrain.types import ModelOutput

Run = Callable[[Tensor], Tensor]


class ExportedModel(nn.Module):
    """Images -> `ModelOutput`, by an exported file.

    What gives probabilities answers with their logarithm, which are logits too. What gives labels has no logits: `run`
    is all it can do.

    Args:
        run: images [N, C, H, W] -> the file's output, on the images' device.
        interface: what it takes and gives.
    """

    def __init__(self, run: Run, interface: Interface) -> None:
        super().__init__()
        self.run, self.interface = run, interface

    def forward(self, images: Tensor) -> ModelOutput:
        assert self.interface.outputs != "labels", "has no logits"
        return ModelOutput(self._logits(self.answer(images)), {})

    def answer(self, images: Tensor) -> Tensor:
        """The file's own output.

        Raises:
            ConfigError: the images have another size than the one that the file takes.
        """
        height, width = images.shape[-2:]
        if self.interface.size not in (None, (height, width)):
            assert self.interface.size is not None
            only = "x".join(map(str, self.interface.size))
            raise ConfigError(
                f"the exported model takes images of {only} only, not of {height}x{width}: export it with size=null, "
                f"or bring images to {only} by windows of that size"
            )
        return self.run(images)

    def _logits(self, output: Tensor) -> Tensor:
        if self.interface.outputs == "logits":
            return output
        return output.clamp_min(torch.finfo(output.dtype).tiny).log()


@dataclass(frozen=True)
class ExportedFile:
    """What is in an exported file."""

    metadata: dict[str, str]
    model: ExportedModel


def read(data: bytes, path: Path, device: torch.device, trusted: Collection[str] = ()) -> ExportedFile:
    """The file at `path`, whose bytes are `data`, ready to run.

    Args:
        data: of the file.
        path: says the format, and names the file in messages.
        device: ONNX runs on it where onnxruntime can, else on the CPU; the others on it.
        trusted: must hold `pickle` for torch.export's files, since reading them can run code.

    Raises:
        CheckpointError: the file cannot be read, or `segtrain export` did not write it.
        ConfigError: onnxruntime is not installed.
    """
    file_format = format_of(path)
    assert file_format is not None
    if file_format == "torch_export" and "pickle" not in trusted:
        raise CheckpointError(
            f"{path}: torch.export's files are read with pickle, which runs whatever code their maker put there; if "
            "you made it, set trust=[pickle]; .onnx and .torchscript need no trust"
        )
    readers: dict[Format, Callable[[bytes, torch.device], tuple[dict[str, str], Run]]] = {
        "onnx": _onnx,
        "torchscript": _torchscript,
        "torch_export": _torch_export,
    }
    try:
        metadata, run = readers[file_format](data, device)
    except ConfigError:
        raise
    except Exception as error:  # a damaged file fails in any way
        raise CheckpointError(
            f"{path}: damaged, or no file of format={file_format} ({one_line(error)[:200]}); export it anew"
        ) from None
    return ExportedFile(metadata, ExportedModel(run, interface_in(metadata, path)))


def _onnx(data: bytes, device: torch.device) -> tuple[dict[str, str], Run]:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError("an .onnx file runs by the package onnxruntime: pip install segtrain[onnx]") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; they are raised too
    options.intra_op_num_threads = torch.get_num_threads()
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.type == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
    session = onnxruntime.InferenceSession(data, options, providers=providers)
    name = session.get_inputs()[0].name

    def run(images: Tensor) -> Tensor:
        output = session.run(None, {name: images.contiguous().cpu().numpy()})[0]
        return torch.from_numpy(output).to(images.device)

    return dict(session.get_modelmeta().custom_metadata_map), run


def _torchscript(data: bytes, device: torch.device) -> tuple[dict[str, str], Run]:
    files: dict[str, Any] = dict.fromkeys(KEYS, "")
    with warnings.catch_warnings():  # torch.jit will be superseded, which is the exporting user's to decide
        warnings.simplefilter("ignore")
        module: Any = torch.jit.load(io.BytesIO(data), map_location=device, _extra_files=files)
    return _texts(files), module.forward


def _torch_export(data: bytes, device: torch.device) -> tuple[dict[str, str], Run]:
    from torch.export.passes import move_to_device_pass

    files: dict[str, Any] = dict.fromkeys(KEYS, "")
    program = torch.export.load(io.BytesIO(data), extra_files=files)
    module = move_to_device_pass(program, device).module()
    # A plain function: a module among another's children is asked to change its mode, which this one refuses.
    return _texts(files), lambda images: module(images)


def _texts(files: dict[str, Any]) -> dict[str, str]:
    return {key: text.decode() if isinstance(text, bytes) else text for key, text in files.items()}
