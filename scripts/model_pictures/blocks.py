"""The blocks that backbones are made of, a small picture each."""

# ruff: noqa: RUF001 (multiplication signs are meant)

from itertools import pairwise

from model_pictures.canvas import FAINT, Canvas
from model_pictures.diagram import BLUE, GREEN, PALE, PURPLE, column, enter, join, leave, shortcut, titled


def vgg() -> Canvas:
    c = titled(
        560, 300, "VGG: stacks of 3×3", "three small convolutions see what one 7×7 sees, with 27 C² weights for 49 C²"
    )
    side, x, y = 26, 34, 78
    for i in range(7):
        for j in range(7):
            ring = max(abs(i - 3), abs(j - 3))
            fill = {0: BLUE, 1: "#8fbbe6", 2: "#bcd7f1", 3: PALE}[ring]
            c.square(x + j * side, y + i * side, side, fill, "#ffffff")
    for i, label in enumerate(("one output pixel", "one layer sees 3×3", "two layers see 5×5", "three see 7×7")):
        c.square(236, 100 + 34 * i, 14, (BLUE, "#8fbbe6", "#bcd7f1", PALE)[i], "#ffffff")
        c.text(258, 112 + 34 * i, label, size=11.5, anchor="start")
    boxes = column(
        c,
        468,
        86,
        [("3×3, ReLU", "encoder"), ("3×3, ReLU", "encoder"), ("3×3, ReLU", "encoder"), ("max-pool 2", "data")],
        step=42,
    )
    enter(c, boxes[0], "C maps", 16)
    leave(c, boxes[-1], "half the size")
    return c


def inception() -> Canvas:
    c = titled(
        760,
        346,
        "GoogLeNet: inception, and classifiers on the way",
        "several kernel sizes at once; 1×1 convolutions first, so that it stays cheap",
    )
    start = c.box(320, 66, 120, 24, ("in",), "data", size=11.5)
    tops = ((None, "1×1"), ("1×1", "3×3"), ("1×1", "5×5"), ("max-pool 3", "1×1"))
    join = c.box(300, 200, 160, 24, ("concatenate",), "decoder", size=11.5)
    for i, (first, second) in enumerate(tops):
        x = 122 + i * 132
        if first is not None:
            above = c.box(x, 112, 104, 24, (first,), "encoder", size=11.5)
            box = c.box(x, 154, 104, 24, (second,), "encoder", size=11.5)
            c.arrow(above.bottom, box.top)
        else:
            above = box = c.box(x, 154, 104, 24, (second,), "encoder", size=11.5)
        c.arrow(start.bottom, (380, 100), (above.top[0], 100), above.top, halo=False)
        c.arrow(box.bottom, (box.bottom[0], 188), (380, 188), join.top, halo=False)
    names = ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")
    left = 60
    last = None
    for name in names:
        if name[0] != names[max(0, names.index(name) - 1)][0]:
            left += 22
        box = c.box(left, 262, 50, 26, (name,), "encoder", size=11.5)
        if last is not None:
            c.arrow(last.right, box.left)
        if name in ("4a", "4d"):
            aux = c.box(left - 16, 308, 82, 24, ("auxiliary",), "head", size=11.5)
            c.arrow(box.bottom, aux.top, color=PURPLE)
        last = box
        left += 68
    return c


def residual() -> Canvas:
    c = titled(
        560,
        314,
        "ResNet: learn the difference",
        "the shortcut carries the input past; a deep stack starts near the identity",
    )
    for x, title, labels in (
        (160, "basic (18, 34)", [("3×3, 64", "encoder"), ("3×3, 64", "encoder")]),
        (410, "bottleneck (50, 101, 152)", [("1×1, 64", "encoder"), ("3×3, 64", "encoder"), ("1×1, 256", "encoder")]),
    ):
        boxes = column(c, x, 112, labels, step=44)
        c.text(x, 72, title, size=12, bold=True)
        start = enter(c, boxes[0], "", 26)
        node = join(c, boxes[-1], "+")
        shortcut(c, x + 96, start, node)
        leave(c, node, "ReLU")
    return c


def dense() -> Canvas:
    c = titled(
        640,
        210,
        "DenseNet: every layer reads all before it",
        "k new maps each (the growth rate); nothing is learned twice, weights stay few",
    )
    y, boxes = 142.0, []
    for i in range(5):
        lines = (f"layer {i}", "+ k") if i else ("in", "C")
        boxes.append(c.box(34 + i * 122, y, 74, 40, lines, "encoder" if i else "data", size=11.5))
    for a, b in pairwise(boxes):
        c.arrow(a.right, b.left)
    for i, source in reversed(list(enumerate(boxes[:3]))):
        rail, x = y - 50 + 14 * i, source.top[0] + 22
        for j in range(i + 2, 5):
            entry = boxes[j].x + 14 + 16 * i
            if j == 4:
                c.arrow((x, y), (x, rail), (entry, rail), (entry, y), color=GREEN)
            else:
                c.arrow((entry, rail + 1), (entry, y), color=GREEN)
    return c


def squeeze() -> Canvas:
    c = titled(
        560,
        352,
        "SENet: weigh the channels",
        "squeeze: one number per channel; excite: which of them matter in this image",
    )
    block = column(c, 150, 104, [("residual branch", "encoder")], width=124)[0]
    start = enter(c, block, "", 30)
    scale = c.node(150, 254, "×", "decoder")
    c.arrow(block.bottom, scale.top)
    add = join(c, scale, "+", 28)
    shortcut(c, 56, start, add)
    leave(c, add, "ReLU")
    gates = column(
        c,
        370,
        104,
        [("mean over the map", "decoder"), ("C → C / 16, ReLU", "decoder"), ("C / 16 → C, sigmoid", "decoder")],
        width=150,
    )
    c.arrow((150, 148), (262, 148), (262, gates[0].left[1]), gates[0].left, halo=False)
    c.arrow(gates[-1].bottom, (370, 254), scale.right)
    c.text(260, 270, "C weights in (0, 1)", size=11, color=FAINT)
    return c


def mbconv() -> Canvas:
    c = titled(
        720,
        356,
        "EfficientNet: MBConv, and scaling all at once",
        "wide inside, narrow outside; depth, width and resolution grow together",
    )
    widths = (
        (76, "in, C"),
        (196, "1×1, 6 C"),
        (196, "depthwise k×k, stride"),
        (196, "squeeze, excite"),
        (86, "1×1, C"),
    )
    kinds = ("data", "encoder", "encoder", "decoder", "encoder")
    boxes = [
        c.box(160 - width / 2, 66 + 44 * i, width, 26, (label,), kind, size=11.5)
        for i, ((width, label), kind) in enumerate(zip(widths, kinds, strict=True))
    ]
    for above, below in pairwise(boxes):
        c.arrow(above.bottom, below.top)
    first, last = boxes[0], boxes[-1]
    node = join(c, last, "+", 30)
    c.arrow(first.left, (34, first.left[1]), (34, node.left[1]), node.left, color=GREEN)
    c.text(44, 318, "where sizes agree", size=11, anchor="start", color=FAINT)
    for i, (name, base) in enumerate((("depth", 1.2), ("width", 1.1), ("resolution", 1.15))):
        y = 110 + 70 * i
        c.text(400, y - 16, f"{name}: × {base} for each doubling of the work", size=11.5, anchor="start")
        for phi in range(5):
            height = round(13 * base**phi, 1)
            c.square(400 + 62 * phi, y + 26 - height, 44, PALE, BLUE, height=height)
    c.text(400, 310, "1.2 × 1.1² × 1.15² ≈ 2 times the work per step", size=11.5, anchor="start", color=FAINT)
    return c


def unet_variants() -> Canvas:
    c = titled(
        760,
        296,
        "U-Net's variants: attention gate, residual unit",
        "what passes a skip is judged by the coarser stage; what a stage learns is a difference",
    )
    skip = c.box(34, 92, 96, 28, ("skip",), "encoder", size=11.5)
    signal = c.box(34, 222, 96, 28, ("coarser stage",), "decoder", size=11.5)
    one = c.box(168, 142, 84, 28, ("1×1, stride 2",), "decoder", size=11)
    two = c.box(168, 222, 84, 28, ("1×1",), "decoder", size=11)
    node = c.node(290, 196, "+", "decoder")
    psi = c.box(322, 182, 118, 28, ("ReLU, 1×1, sigmoid",), "decoder", size=11)
    gate = c.node(381, 106, "×", "decoder")
    c.arrow((82, 120), (82, 156), one.left)
    c.arrow(signal.right, two.left)
    c.arrow(one.right, (290, one.right[1]), node.top)
    c.arrow(two.right, (290, two.right[1]), node.bottom)
    c.arrow(node.right, psi.left)
    c.arrow(psi.top, gate.bottom)
    c.text(388, 152, "a weight per pixel", size=11, anchor="start", color=FAINT)
    c.arrow(skip.right, gate.left, color=GREEN)
    c.arrow(gate.right, (470, 106), color=GREEN)
    c.text(404, 92, "to the decoder", size=11, anchor="start", color=FAINT)
    boxes = column(c, 620, 104, [("norm, ReLU, 3×3", "decoder"), ("norm, ReLU, 3×3", "decoder")], width=130, step=52)
    start = enter(c, boxes[0], "", 26)
    add = join(c, boxes[-1], "+", 34)
    shortcut(c, 716, start, add)
    c.text(722, 176, "1×1", size=11, anchor="start", color=FAINT)
    leave(c, add)
    return c


BLOCKS = {
    "vgg": vgg,
    "inception": inception,
    "residual": residual,
    "dense": dense,
    "squeeze": squeeze,
    "mbconv": mbconv,
    "unet_variants": unet_variants,
}
