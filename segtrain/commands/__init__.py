"""The commands: `segtrain NAME` calls `run(argv)` of `segtrain.commands.NAME` and exits with what it returns.

This table holds what the help says, so that help costs no import of torch or Hydra. A new command is a row and a file;
a dash in its name is an underscore in the file's.
"""

from typing import NamedTuple


class Command(NamedTuple):
    """What the help says about a command.

    Attributes:
        summary: one line for `segtrain --help`.
        usage: what follows the command's name.
        examples: whole command lines.
        primary: the config in configs/ whose keys the command takes, or None if it takes no overrides.
        words: what the first argument may be, for completion; the other arguments may then be files.
        takes_file: whether the first argument is a file or a folder.
        takes_groups: whether groups and keys of the train config are among the overrides it takes.
    """

    summary: str
    usage: str
    examples: tuple[str, ...]
    primary: str | None = None
    words: tuple[str, ...] = ()
    takes_file: bool = False
    takes_groups: bool = True


COMMANDS = {
    "train": Command(
        "train a model",
        "[GROUP=OPTION ...] [KEY=VALUE ...] [-m]",
        (
            "segtrain train",
            "segtrain train model=unet data=voc data.root=/data/VOCdevkit",
            "segtrain train model=unet trainer.max_steps=2000 optimizer.lr=3e-4",
            "segtrain train -m seed=0,1,2",
            "segtrain train resume=outputs/shapes/unet/RUN",
        ),
        "train",
    ),
    "evaluate": Command(
        "measure a checkpoint: mIoU, per-class IoU, accuracies",
        "checkpoint=FILE [GROUP=OPTION ...] [KEY=VALUE ...]",
        (
            "segtrain evaluate checkpoint=RUN/checkpoints/best.pt",
            "segtrain evaluate checkpoint=RUN/checkpoints/best.pt data.root=/elsewhere/CamVid",
        ),
        "evaluate",
    ),
    "predict": Command(
        "segment pictures, videos or a camera's with a checkpoint",
        "checkpoint=FILE input=FILE|FOLDER|GLOB|CAMERA|[...] | --stdin output=FOLDER [KEY=VALUE ...]",
        (
            "segtrain predict checkpoint=RUN/checkpoints/best.pt input=photo.jpg output=predictions",
            "segtrain predict checkpoint=best.pt input=clip.mp4 output=predictions legend=true side_by_side=true",
            "find photos -name '*.jpg' | segtrain predict checkpoint=best.pt --stdin output=predictions",
        ),
        "predict",
    ),
    "checkpoint": Command(
        "show what is in checkpoint files, strip them for inference, verify them",
        "inspect|strip|verify FILE|RUN_DIR ... [KEY=VALUE ...]",
        (
            "segtrain checkpoint inspect RUN/checkpoints/best.pt",
            "segtrain checkpoint strip RUN/checkpoints/best.pt output=model.safetensors",
            "segtrain checkpoint verify RUN",
        ),
        "checkpoint",
        words=("inspect", "strip", "verify"),
        takes_groups=False,
    ),
    "export": Command(
        "write a model as ONNX, TorchScript or torch.export, and compare it with the checkpoint",
        "checkpoint=FILE [format=onnx|torchscript|torch_export] [output=FILE] [KEY=VALUE ...]",
        (
            "segtrain export checkpoint=RUN/checkpoints/best.pt output=model.onnx",
            "segtrain export checkpoint=RUN/checkpoints/best.pt format=torchscript outputs=labels check=false",
        ),
        "export",
    ),
    "lr_range": Command(
        "find the learning rates that a model can train with, and suggest one",
        "[GROUP=OPTION ...] [KEY=VALUE ...]",
        (
            "segtrain lr_range model=unet data=voc data.root=/data/VOCdevkit",
            "segtrain lr_range model=unet optimizer=sgd max_lr=10 steps=200",
        ),
        "lr_range",
    ),
    "crf-search": Command(
        "find parameters of the dense CRF on part of the validation set, and see on the rest what they gain",
        "checkpoint=FILE [images=N] [GROUP=OPTION ...] [KEY=VALUE ...]",
        (
            "segtrain crf-search checkpoint=RUN/checkpoints/best.pt",
            "segtrain crf-search checkpoint=RUN/checkpoints/best.pt images=30 bilateral_weight=[2,4,8] rounds=3",
        ),
        "crf_search",
    ),
    "replay": Command(
        "run a step again whose loss or gradient was no number, and say where it went wrong",
        "RUN_DIR|FILE [GROUP=OPTION ...] [KEY=VALUE ...]",
        (
            "segtrain replay RUN",
            "segtrain replay RUN trainer.precision=fp32",
        ),
        "replay",
        takes_file=True,
    ),
    "convert": Command(
        "rewrite the weights of a whole model that another framework saved",
        "[GROUP=OPTION ...] model.weights=FILE output=FILE [num_classes=N] [KEY=VALUE ...]",
        ("segtrain convert model=unet_light model.weights=smp_unet.pth num_classes=21 output=unet.pt",),
        "convert",
    ),
    "describe": Command(
        "show a model's receptive fields, parameters, multiply-accumulates and memory, or compare several",
        "[GROUP=OPTION ...] [compare=[MODEL,MODEL/BACKBONE,...]] [KEY=VALUE ...]",
        (
            "segtrain describe model=unet model/backbone=resnet18",
            "segtrain describe model=deeplabv3plus size=[1024,2048] precision=bf16 batch_size=4",
            "segtrain describe compare=[unet,deeplabv3plus,fcn8s]",
            "segtrain describe compare=[unet/resnet18,unet/resnet50] format=json",
            "segtrain describe model=unet_light model.decoder_channels=[128,64,32,32,16]   # experiment=demo, restated",
        ),
        "describe",
    ),
    "config": Command(
        "print the configuration that `train` would run with",
        "[GROUP=OPTION ...] [KEY=VALUE ...] [--package KEY] [--resolve] [--info defaults-tree]",
        (
            "segtrain config model=unet",
            "segtrain config model=unet --package optimizer",
            "segtrain config experiment=camvid_unet_r18_cpu --info defaults-tree",
        ),
        "train",
    ),
    "list": Command(
        "show the models, data sets, losses, ... there are, and how to add one's own",
        "[KIND] [--config-dir DIR]",
        ("segtrain list", "segtrain list models", "segtrain list data --config-dir my_configs"),
    ),
    "completion": Command(
        "print a script that lets the shell complete commands, options and keys",
        "bash | zsh | fish",
        (
            'eval "$(segtrain completion bash)"     # in ~/.bashrc',
            'eval "$(segtrain completion zsh)"      # in ~/.zshrc, after compinit',
            "segtrain completion fish | source      # in ~/.config/fish/config.fish",
        ),
    ),
}
