"""An exported graph as the bytes of a file, in each of the formats."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from segtrain.errors import ConfigError, one_line
from segtrain.export.described import Format
from segtrain.export.graph import ExportedGraph

# An odd height and width, large enough that no map of any network here is a single pixel.
SAMPLE_SIZE = (97, 131)
LARGEST_ONNX = 2**31 - 1  # bytes of a protobuf message


def to_bytes(
    graph: ExportedGraph,
    file_format: Format,
    in_channels: int,
    size: tuple[int, int] | None,
    metadata: Mapping[str, str],
    opset: int,
) -> bytes:
    """The file's contents.

    Args:
        graph: on the CPU, in evaluation mode.
        file_format: of the file.
        in_channels: of the images.
        size: height and width of all images; None: any. The number of images is free.
        metadata: texts by name.
        opset: version of ONNX's operators.

    Raises:
        ConfigError: the format cannot hold this model; the message says what torch said of it. Or a package is missing.
    """
    dtype = torch.float32 if graph.normalize is None else torch.uint8
    images = torch.zeros(2, in_channels, *(size or SAMPLE_SIZE), dtype=dtype)
    if file_format == "onnx":
        _need_onnx()
    try:
        with torch.no_grad(), _quiet():
            if file_format == "torchscript":
                return _torchscript(graph, images, metadata)
            program = _program(graph, images, size is None)
            if file_format == "torch_export":
                return _torch_export(program, metadata)
            return _onnx(program, metadata, opset)
    except ConfigError:
        raise
    except Exception as error:  # torch's exporters fail in any way
        others = [name for name in ("onnx", "torchscript", "torch_export") if name != file_format]
        remedy = f"try format={' or format='.join(others)}" + ("" if size else ", or one size=[HEIGHT,WIDTH]")
        raise ConfigError(
            f"format={file_format}: torch cannot export this model ({one_line(error)[:300]}); {remedy}"
        ) from error


def _program(graph: ExportedGraph, images: Tensor, any_size: bool) -> torch.export.ExportedProgram:
    free = torch.export.Dim.DYNAMIC
    dims = {0: free, 2: free, 3: free} if any_size else {0: free}
    symbolic: Any = import_module("torch.fx.experimental._config")
    # Without it, sizes are taken to be none of those where something would be special, such as one image.
    with symbolic.patch(backed_size_oblivious=True):
        return torch.export.export(graph, (images,), dynamic_shapes={"images": dims})


def _onnx(program: torch.export.ExportedProgram, metadata: Mapping[str, str], opset: int) -> bytes:
    exported = torch.onnx.export(
        program, dynamo=True, verbose=False, opset_version=opset, input_names=["images"], output_names=["output"]
    )
    assert exported is not None
    model: Any = exported.model_proto
    if model.opset_import[0].version != opset:
        raise ConfigError(f"opset={opset}: this model's operators need {model.opset_import[0].version}; set that")
    for key, text in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, text
    if model.ByteSize() > LARGEST_ONNX:
        raise ConfigError("format=onnx: the model is larger than the 2 GiB of an ONNX file; take format=torch_export")
    data: bytes = model.SerializeToString()
    return data


def _torchscript(graph: ExportedGraph, images: Tensor, metadata: Mapping[str, str]) -> bytes:
    traced: Any = torch.jit.trace(graph, images, check_trace=False)
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer, _extra_files=dict(metadata))
    return buffer.getvalue()


def _torch_export(program: torch.export.ExportedProgram, metadata: Mapping[str, str]) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=dict(metadata))
    return buffer.getvalue()


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError("format=onnx needs the packages onnx and onnxscript: pip install segtrain[onnx]") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporters tell of their steps and of what will change; what goes wrong is raised all the same."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
