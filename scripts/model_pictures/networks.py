"""One picture for each member of the lineage, laid out from what the built model gives.

A row is a stride: a path that goes down loses resolution, one that stays level keeps it. A box is a map, as wide as
the logarithm of its channels.
"""

# ruff: noqa: RUF001 (multiplication signs are meant)

from collections.abc import Iterable, Sequence
from math import log2

from model_pictures.canvas import FAINT, LINE, PALETTE, Box, Canvas, text_width
from model_pictures.measure import SIDE, Measured, measure

ROW, TOP, LEFT, HEIGHT = 62, 62, 86, 36
STRIDES = (1, 2, 4, 8, 16, 32)
ORANGE, GREEN, PURPLE = (PALETTE[kind][1] for kind in ("atrous", "decoder", "head"))


class Rows(Canvas):
    """A canvas with a row for each stride."""

    def __init__(self, width: float, title: str, subtitle: str, deepest: int = 32) -> None:
        strides = [stride for stride in STRIDES if stride <= deepest]
        super().__init__(width, TOP + ROW * len(strides) + 20, title)
        self.text(16, 25, title, size=15, anchor="start", bold=True)
        self.text(34 + text_width(title, 15, bold=True), 25, subtitle, size=12, anchor="start", color=FAINT)
        for stride in strides:
            self.text(16, self.row(stride) + 4, f"stride {stride}", size=11, anchor="start", color=FAINT)
            self.line((LEFT - 12, self.row(stride)), (width - 14, self.row(stride)), color="#dfe4e8", dashed=True)

    def row(self, stride: float) -> float:
        """Middle of the row of `stride`."""
        return TOP + ROW * log2(stride) + HEIGHT / 2 - 6

    def map(self, x: float, stride: int, name: str, channels: int, kind: str, rates: Sequence[int] = ()) -> Box:
        """A map with its left edge at x; convolutions of other rates than 1 are written above it."""
        kind = "atrous" if rates else kind
        box = self.box(
            x, self.row(stride) - HEIGHT / 2, map_width(channels, name), HEIGHT, (name, str(channels)), kind, size=11.5
        )
        if rates:
            label = f"rate {', '.join(map(str, rates))}"
            self.text(box.top[0], box.y - 5, label, size=10.5, bold=True, color=ORANGE)
        return box

    def encoder(
        self, measured: Measured, channels: int = 3, gap: float = 22, skip: Sequence[str] = ()
    ) -> dict[str, Box]:
        """Image and backbone, from left to right; `skip` names features that are left out."""
        boxes = {"image": self.map(LEFT, 1, "image", channels, "data")}
        last = boxes["image"]
        for feature in measured.features:
            if feature.name in skip:
                continue
            level = self.row(feature.stride) == last.y + HEIGHT / 2
            x = last.right[0] + 26 if level else max(last.bottom[0] + gap, last.x + 30)
            box = self.map(
                x, feature.stride, feature.name, feature.channels, "encoder", measured.rates.get(feature.name, ())
            )
            self.flow(last, box)
            boxes[feature.name] = last = box
        for name in measured.heads:
            self.auxiliary(boxes[name])
        return boxes

    def auxiliary(self, source: Box) -> Box:
        """What an auxiliary head makes of a map, in training only; between the rows, since its stride is the map's."""
        width = round(text_width("auxiliary score", 11)) + 14
        box = self.box(source.right[0] - width, source.y - 40, width, 22, ("auxiliary score",), "training", size=11)
        x = source.right[0] - 12  # beside what is written above the map
        self.arrow((x, source.y), (x, box.bottom[1]), color=PURPLE, dashed=True)
        return box

    def flow(self, a: Box, b: Box, color: str = LINE) -> None:
        """Level: straight. Down: out of the bottom, in from the left. Up: out of the right, in from below."""
        if a.left[1] == b.left[1]:
            self.arrow(a.right, b.left, color=color)
        elif b.y > a.y:
            self.arrow(a.bottom, (a.bottom[0], b.left[1]), b.left, color=color)
        else:
            self.arrow(a.right, (b.bottom[0], a.right[1]), b.bottom, color=color)

    def output(self, x: float, channels: int, name: str = "logits") -> Box:
        return self.map(x, 1, name, channels, "head")

    def finish(self, *kinds: str) -> Canvas:
        note = "c concatenation · + sum · box width: log of channels"
        self.legend(kinds, 16, self.height - 12, note)
        return self


def map_width(channels: int, name: str) -> float:
    return round(max(22 + 7.2 * log2(channels), text_width(name, 11.5, bold=True) + 16))


def centred(box: Box, width: float) -> float:
    """Left edge of something of `width` above the middle of `box`."""
    return box.top[0] - width / 2


def millions(measured: Measured) -> str:
    remark = " without the auxiliary head" if measured.heads else ""
    return f"{measured.parameters / 1e6:.1f} M parameters{remark}"


def fcn() -> Canvas:
    m = measure("model=fcn8s")
    c = Rows(920, "FCN-32s, 16s, 8s", f"class scores from three depths, added on the way up; {millions(m)}")
    e = c.encoder(m, gap=24)
    score32 = c.map(e["fc7"].right[0] + 30, 32, "score", 21, "head")
    c.flow(e["fc7"], score32)
    sums, last = {}, score32
    for stride, pool in ((16, "pool4"), (8, "pool3")):
        score = c.map(e[pool].right[0] + 30, stride, "score", m.maps[f"score.stride{stride}"].channels, "head")
        c.arrow(e[pool].right, score.left)
        node = c.node(last.top[0] + 104, c.row(stride), "+", "decoder")
        c.arrow(score.right, node.left, color=GREEN)
        c.flow(last, node)
        c.text(node.bottom[0] + 7, node.bottom[1] + 22, "2× up", size=10.5, anchor="start", color=FAINT)
        sums[stride] = last = node
    for source, name in ((score32, "FCN-32s"), (sums[16], "FCN-16s"), (sums[8], "FCN-8s")):
        out = c.output(centred(source, map_width(21, name)), 21, name)
        c.arrow(source.top, out.bottom)
        factor = {"FCN-32s": 32, "FCN-16s": 16, "FCN-8s": 8}[name]
        c.text(out.bottom[0] + 6, out.bottom[1] + 30, f"{factor}× up", size=10.5, anchor="start", color=FAINT)
    return c.finish("data", "encoder", "decoder", "head")


def _u_shape(c: Rows, m: Measured, channels: int, kind: str, gap: float) -> None:
    """An encoder, and a decoder that joins its skip at every stride."""
    e = c.encoder(m, channels=channels, gap=gap)
    skips = {feature.stride: e[feature.name] for feature in m.features}
    last = e[m.features[-1].name]
    i = 0
    while f"decoder.{i}" in m.maps:
        stage = m.maps[f"decoder.{i}"]
        name = f"{kind}{i + 1}"
        x = last.right[0] + 34 - map_width(stage.channels, name) / 2
        box = c.map(x, stage.stride, name, stage.channels, "decoder")
        c.arrow(skips[stage.stride].right, box.left, color=GREEN)
        c.flow(last, box)
        last, i = box, i + 1
    c.flow(last, c.output(last.right[0] + 26, m.maps["head"].channels))


def unet() -> Canvas:
    m = measure("model=unet", num_classes=2, in_channels=1)
    c = Rows(900, "U-Net", f"every level of the way down is joined on the way up; {millions(m)}", deepest=16)
    _u_shape(c, m, 1, "up", 30)
    return c.finish("data", "encoder", "decoder", "head")


def fcdensenet() -> Canvas:
    m = measure("model=fcdensenet103", num_classes=11)
    c = Rows(1010, "FC-DenseNet-103", f"a U-Net of dense blocks; up go new maps only; {millions(m)}")
    _u_shape(c, m, 3, "dense", 24)
    return c.finish("data", "encoder", "decoder", "head")


def _ghosts(c: Rows, m: Measured, boxes: dict[str, Box], plain: dict[str, int]) -> None:
    """Where maps would lie had their strides not been turned into dilation."""
    for name, stride in plain.items():
        box = boxes[name]
        ghost = c.box(box.x, c.row(stride) - HEIGHT / 2, box.width, HEIGHT, (name,), "ghost", size=11)
        c.arrow(ghost.top, (ghost.top[0], box.bottom[1] + 2), color=ORANGE, dashed=True)
    last = boxes[list(plain)[-1]]
    c.text(
        last.right[0] + 10,
        c.row(32) + 4,
        "strided network: dilation lifts its maps",
        size=11,
        anchor="start",
        color=FAINT,
    )


def deeplabv1() -> Canvas:
    m = measure("model=deeplabv1")
    c = Rows(900, "DeepLab v1 (LargeFOV)", f"the last two poolings keep the size; {millions(m)}")
    e = c.encoder(m)
    _ghosts(c, m, e, {"pool4": 16, "pool5": 32})
    score = c.map(e["fc7"].right[0] + 26, 8, "score", 21, "head")
    c.flow(e["fc7"], score)
    _resized(c, score, score.right[0] + 40, 8)
    return c.finish("data", "encoder", "atrous", "head")


def _resized(c: Rows, source: Box, x: float, factor: int) -> Box:
    """Logits at the image's size."""
    out = c.output(x, 21)
    c.flow(source, out)
    c.text(out.bottom[0] + 6, out.bottom[1] + 26, f"{factor}× bilinear", size=10.5, anchor="start", color=FAINT)
    return out


def _fan(c: Rows, source: Box, x: float, branches: Sequence[tuple[str, str]], join: str, width: float = 84) -> Box:
    """Parallel branches (label, kind) between `source` and a node that joins them."""
    middle, spacing = source.left[1], 30
    node = c.node(x + width + 34, middle, join, "decoder")
    fork = x - 14
    for i, (label, kind) in enumerate(branches):
        y = middle + (i - (len(branches) - 1) / 2) * spacing
        box = c.box(x, y - 12, width, 24, (label,), kind, size=11)
        c.arrow(source.right, (fork, middle), (fork, y), box.left, halo=False)
        if y == middle:
            c.arrow(box.right, node.left)
        else:
            c.arrow(box.right, (node.top[0], y), node.top if y < middle else node.bottom, halo=False)
    return node


def _rates(m: Measured, branches: Iterable[int]) -> list[int]:
    return [m.rate(f"aspp.branches.{i}") for i in branches]


def deeplabv2() -> Canvas:
    m = measure("model=deeplabv2")
    c = Rows(980, "DeepLab v2", f"classifiers of four rates, summed (ASPP), at three scales; {millions(m)}")
    e = c.encoder(m)
    _ghosts(c, m, e, {"layer3": 16, "layer4": 32})
    branches = [(f"3×3, rate {rate}", "atrous") for rate in _rates(m, range(4))]
    node = _fan(c, e["layer4"], e["layer4"].right[0] + 40, branches, "+")
    score = c.map(node.right[0] + 24, 8, "score", m.maps["aspp"].channels, "head")
    c.flow(node, score)
    top = c.row(2)
    fuse = c.box(score.right[0] + 16, top - 14, 46, 28, ("max",), "decoder")
    c.flow(score, fuse)
    for i, scale in enumerate(("0.75", "0.5")):
        other = c.box(fuse.x - 226, top - 26 + 28 * i, 180, 24, (f"all of this, image × {scale}",), "ghost", size=11)
        c.arrow(other.right, (fuse.x - 24, other.right[1]), (fuse.x - 24, top), fuse.left, dashed=True)
    out = c.output(centred(fuse, map_width(21, "logits")), 21)
    c.arrow(fuse.top, out.bottom)
    return c.finish("data", "encoder", "atrous", "head")


def _aspp(c: Rows, m: Measured, source: Box, x: float) -> Box:
    rates = [(f"3×3, rate {rate}", "atrous") for rate in _rates(m, range(1, 4))]
    node = _fan(c, source, x, [("1×1", "decoder"), *rates, ("image mean", "decoder")], "c", width=88)
    project = c.map(node.right[0] + 24, 16, "project", m.maps["aspp"].channels, "decoder")
    c.flow(node, project)
    return project


def deeplabv3() -> Canvas:
    m = measure("model=deeplabv3", "model.backbone.multi_grid=[1,2,4]", "model.backbone.dilate_strided=true")
    c = Rows(1060, "DeepLab v3", f"ASPP with BatchNorm and the image as a whole, multi-grid; {millions(m)}")
    e = c.encoder(m)
    project = _aspp(c, m, e["layer4"], e["layer4"].right[0] + 44)
    score = c.map(project.right[0] + 22, 16, "score", m.maps["classifier"].channels, "head")
    c.flow(project, score)
    _resized(c, score, score.right[0] + 20, 16)
    return c.finish("data", "encoder", "atrous", "decoder", "head")


def deeplabv3plus() -> Canvas:
    m = measure("model=deeplabv3plus", "model/backbone=xception65")
    c = Rows(1130, "DeepLab v3+", f"ASPP is the encoder's end; a decoder at stride 4; Xception-65, {millions(m)}")
    e = c.encoder(m, gap=24)
    project = _aspp(c, m, e["exit2"], e["exit2"].right[0] + 44)
    reduce = c.map(e["entry2"].right[0] + 250, 4, "1×1", m.maps["reduce"].channels, "decoder")
    c.arrow(e["entry2"].right, reduce.left, color=GREEN)
    node = c.node(project.right[0] + 24, c.row(4), "c", "decoder")
    c.arrow(reduce.right, node.left, color=GREEN)
    c.flow(project, node)
    c.text(node.bottom[0] - 6, node.bottom[1] + 24, "4× bilinear", size=10.5, anchor="end", color=FAINT)
    convs = c.map(node.right[0] + 22, 4, "2 × 3×3", m.maps["decoder"].channels, "decoder")
    c.flow(node, convs)
    score = c.map(convs.right[0] + 20, 4, "score", m.maps["classifier"].channels, "head")
    c.flow(convs, score)
    out = c.output(centred(score, map_width(21, "logits")), 21)
    c.arrow(score.top, out.bottom)
    c.text(out.bottom[0] - 6, out.bottom[1] + 26, "4× bilinear", size=10.5, anchor="end", color=FAINT)
    return c.finish("data", "encoder", "atrous", "decoder", "head")


def pspnet() -> Canvas:
    m = measure("model=pspnet")
    c = Rows(1060, "PSPNet", f"beside each pixel, what the scene's cells look like; {millions(m)}")
    e = c.encoder(m)
    _ghosts(c, m, e, {"layer3": 16, "layer4": 32})
    bins = [SIDE // m.maps[f"pyramid.levels.{i}"].stride for i in range(4)]
    cells = [(f"{b}×{b} cells", "decoder") for b in bins]
    cells.insert(2, ("as it is", "ghost"))
    node = _fan(c, e["layer4"], e["layer4"].right[0] + 40, cells, "c")
    bottleneck = c.map(node.right[0] + 22, 8, "3×3", m.maps["bottleneck"].channels, "decoder")
    c.flow(node, bottleneck)
    score = c.map(bottleneck.right[0] + 22, 8, "score", m.maps["classifier"].channels, "head")
    c.flow(bottleneck, score)
    _resized(c, score, score.right[0] + 20, 8)
    return c.finish("data", "encoder", "atrous", "decoder", "head")


def upernet() -> Canvas:
    m = measure("model=upernet")
    c = Rows(1010, "UPerNet", f"pyramid pooling on top of a feature pyramid, all levels fused; {millions(m)}")
    e = c.encoder(m, gap=24)
    x = e["layer4"].right[0] + 34
    top = c.map(x, 32, "pyramid pooling", m.maps["top"].channels, "decoder")
    c.flow(e["layer4"], top)
    last = top
    levels = [top]
    for i, name in ((2, "layer3"), (1, "layer2"), (0, "layer1")):
        stride = m.maps[f"laterals.{i}"].stride
        node = c.node(top.top[0], c.row(stride), "+", "decoder")
        c.arrow(e[name].right, node.left, color=GREEN)
        c.arrow(last.top, node.bottom)
        smooth = c.map(node.right[0] + 44, stride, "3×3", m.maps[f"smooth.{i}"].channels, "decoder")
        c.flow(node, smooth)
        levels.append(smooth)
        last = node
    join = c.node(levels[-1].right[0] + 38, c.row(4), "c", "decoder")
    for level in levels[:-1]:
        c.arrow(level.right, (join.bottom[0], level.right[1]), join.bottom, halo=False)
    c.flow(levels[-1], join)
    fuse = c.map(join.right[0] + 22, 4, "fuse", m.maps["fuse"].channels, "decoder")
    c.flow(join, fuse)
    score = c.map(fuse.right[0] + 22, 4, "score", m.maps["classifier"].channels, "head")
    c.flow(fuse, score)
    out = c.output(centred(score, map_width(21, "logits")), 21)
    c.arrow(score.top, out.bottom)
    return c.finish("data", "encoder", "decoder", "head")


NETWORKS = {
    "fcn": fcn,
    "unet": unet,
    "fcdensenet": fcdensenet,
    "deeplabv1": deeplabv1,
    "deeplabv2": deeplabv2,
    "deeplabv3": deeplabv3,
    "deeplabv3plus": deeplabv3plus,
    "pspnet": pspnet,
    "upernet": upernet,
}
