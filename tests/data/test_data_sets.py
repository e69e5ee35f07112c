import numpy as np
import pytest
from PIL import Image

from segtrain.data.camvid import CamVid
from segtrain.data.labels import default_palette
from segtrain.data.voc import VOC2012
from segtrain.errors import ConfigError, DataError

CAMVID = ["Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian"]
CAMVID.append("Bicyclist")
CAMVID_LABELS = {name: [value] for value, name in enumerate(CAMVID)} | {"ignore": [11]}
VOC = [f"class {index}" for index in range(21)]


def voc(root, split="train", **changes):
    options = {"classes": VOC, "palette": None, "labels": None, "mask_format": "index", "ignore_index": 255}
    return VOC2012(root=root, split=split, in_channels=3, **(options | changes))


def camvid(root, split="train", **changes):
    options = {"images": "{split}", "masks": "{split}annot", "classes": CAMVID, "labels": CAMVID_LABELS}
    common = {"palette": None, "mask_format": "index", "ignore_index": 255, "in_channels": 3}
    return CamVid(root=root, split=split, **(options | common | changes))


@pytest.fixture
def devkit(tmp_path, touch):
    """VOC2012 with the items a, b in train, c in val, and SBD's list a, d with an additional mask for d alone."""
    root = tmp_path / "VOCdevkit" / "VOC2012"
    touch(root / "JPEGImages", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    touch(root / "SegmentationClass", "a.png", "b.png", "c.png")
    touch(root / "SegmentationClassAug", "d.png")
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("b\na\n")
    (lists / "val.txt").write_text("c\n")
    (lists / "trainaug.txt").write_text("/JPEGImages/a.jpg /SegmentationClassAug/a.png\n/JPEGImages/d.jpg x\n")
    return tmp_path


# Items, whatever the layout.


def test_an_item_is_its_image_its_labels_and_its_name(write_folder, folder):
    sample = folder(write_folder({"x": [[0, 1, 255]]}))[(0, 0)]
    assert sample.image.tolist() == [[[90, 90, 90]] * 3]
    assert sample.labels.tolist() == [[0, 1, 255]]
    assert sample.name == "x"


def test_an_image_and_a_mask_of_different_size_are_an_error_naming_both(write_folder, save, folder):
    root = write_folder({"x": [[0, 1]]})
    save(root / "masks" / "x.png", [[0, 1, 0]])
    with pytest.raises(DataError, match=r"x\.jpg is 2x1, but its mask .*x\.png is 3x1"):
        folder(root).read(0)


def test_a_size_mismatch_by_a_turn_asks_for_the_exif_orientation(write_folder, save, folder):
    root = write_folder({"x": [[0, 1]]})
    save(root / "masks" / "x.png", [[0], [1]])
    with pytest.raises(DataError, match="EXIF orientation"):
        folder(root).read(0)


def test_a_label_out_of_range_names_file_value_and_position(write_folder, folder):
    root = write_folder({"x": [[0, 1], [7, 0]]})
    with pytest.raises(DataError, match=r"masks/x\.png: label value 7 at row 1, column 0, but the data has 2 classes"):
        folder(root).read(0)


def test_a_transform_is_called_with_seed_epoch_and_index_and_leaves_the_original_data_set_alone(write_folder, folder):
    original = folder(write_folder({"x": [[0]], "y": [[0]]}))
    calls = []
    with_transform = original.with_transform(lambda sample, *key: calls.append(key) or sample, seed=5)
    with_transform[(3, 1)]
    original[(3, 1)]
    assert calls == [(5, 3, 1)]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_channels": 0}, "data.in_channels=0"),
        ({"mask_format": "colour"}, "data.mask_format=colour"),
        ({"palette": [[0, 0, 0]]}, "data.palette has 1 colours for 2 classes"),
        ({"splits": None}, "data.splits"),
        ({"splits": {"train": 0.5, "val": "val.txt"}}, "files for all splits or fractions for all"),
    ],
)
def test_a_wrong_option_is_a_config_error(write_folder, changes, message, folder):
    with pytest.raises(ConfigError, match=message):
        folder(write_folder({"x": [[0]]}), **changes)


# Folder.


def test_a_missing_root_is_named_with_the_layout(tmp_path, folder):
    with pytest.raises(DataError, match=r"data\.root=.*nowhere: no such folder; data=folder expects"):
        folder(tmp_path / "nowhere")


def test_an_image_without_mask_is_named(write_folder, folder):
    root = write_folder({"x": [[0]], "y": [[0]]})
    (root / "masks" / "y.png").unlink()
    with pytest.raises(DataError, match=r"1 image \(y\) without a mask"):
        folder(root)


def test_binary_masks_have_two_classes(write_folder, folder):
    root = write_folder({"x": [[0, 255, 3]]})
    assert folder(root, mask_format="binary").read_labels(0).tolist() == [[0, 1, 1]]


def test_split_files_choose_their_items_in_their_order(write_folder, folder):
    root = write_folder({name: [[0]] for name in "abcd"})
    (root / "t.txt").write_text("c\na\n")
    (root / "v.txt").write_text("b\n")
    splits = {"train": "t.txt", "val": "v.txt"}
    assert folder(root, "train", splits=splits).names() == ("c", "a")
    assert folder(root, "val", splits=splits).names() == ("b",)


def test_split_files_that_share_an_item_are_an_error(write_folder, folder):
    root = write_folder({name: [[0]] for name in "ab"})
    (root / "t.txt").write_text("a\nb\n")
    (root / "v.txt").write_text("b\n")
    with pytest.raises(DataError, match="splits must exclude each other"):
        folder(root, splits={"train": "t.txt", "val": "v.txt"})


def test_the_parts_of_fractions_exclude_each_other(write_folder, folder):
    root = write_folder({f"{i}": [[0]] for i in range(10)})
    splits = {"train": 0.7, "val": 0.3}
    train, val = (folder(root, split, splits=splits).names() for split in splits)
    assert len(train) == 7
    assert sorted(train + val) == [f"{i}" for i in range(10)]


def test_a_fraction_of_no_image_at_all_is_an_error(write_folder, folder):
    with pytest.raises(DataError, match=r"data\.splits\.val=0\.1 of 2 images is none"):
        folder(write_folder({"a": [[0]], "b": [[0]]}), "val", splits={"train": 0.9, "val": 0.1})


def test_an_unknown_split_gets_the_nearest_name(write_folder, folder):
    with pytest.raises(DataError, match="did you mean 'train'"):
        folder(write_folder({"a": [[0]]}), "trian")


def test_folders_can_say_the_split(write_folder, tmp_path, folder):
    write_folder({"a": [[0]]}, root=tmp_path / "train")
    write_folder({"b": [[0]]}, root=tmp_path / "val")
    by_folder = {"images": "{split}/images", "masks": "{split}/masks", "splits": None}
    assert folder(tmp_path, "val", **by_folder).names() == ("b",)


# VOC.


@pytest.mark.parametrize("below", [".", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_takes_any_of_the_three_roots(devkit, below):
    assert voc(devkit / below).names() == ("b", "a")


def test_train_aug_takes_sbds_mask_where_there_is_one_and_vocs_elsewhere(devkit):
    dataset = voc(devkit, "train_aug")
    assert [dataset.paths(index)[1].parent.name for index in range(2)] == ["SegmentationClass", "SegmentationClassAug"]


def test_a_missing_train_aug_list_says_where_it_belongs(devkit):
    (devkit / "VOCdevkit/VOC2012/ImageSets/Segmentation/trainaug.txt").unlink()
    with pytest.raises(DataError, match=r"train_aug\.txt: no such split file; .*10,582 images.*SegmentationClassAug"):
        voc(devkit, "train_aug")


def test_an_unknown_voc_split_lists_those_there_are(devkit):
    with pytest.raises(DataError, match=r"traim\.txt: no such split file; there is train, trainaug, val; did you mean"):
        voc(devkit, "traim")


@pytest.mark.parametrize("missing", ["JPEGImages/a.jpg", "SegmentationClass/a.png"])
def test_a_listed_voc_item_without_image_or_mask_is_an_error(devkit, missing):
    (devkit / "VOCdevkit/VOC2012" / missing).unlink()
    with pytest.raises(DataError, match=rf"train\.txt: 1 name \(a\) without {missing.split('/')[0]}/NAME"):
        voc(devkit)


def test_a_root_that_is_no_voc_says_the_layout(tmp_path):
    with pytest.raises(DataError, match="no ImageSets/Segmentation in it; data=voc expects"):
        voc(tmp_path)


def test_an_empty_voc_list_is_an_empty_data_set(devkit):
    (devkit / "VOCdevkit/VOC2012/ImageSets/Segmentation/train.txt").write_text("")
    with pytest.raises(DataError, match="the list is empty"):
        voc(devkit)


def test_official_voc_masks_are_read_as_classes(shared_data):
    dataset = voc(shared_data / "voc_mini", "trainval")
    for index in range(len(dataset)):
        sample = dataset.read(index)
        assert sample.image.shape == (*sample.labels.shape, 3)
        assert set(np.unique(sample.labels)) <= {*range(21), 255}


def test_official_voc_masks_decode_alike_by_index_and_by_colour(shared_data, tmp_path, save):
    indices = voc(shared_data / "voc_mini", "trainval")
    classes, coloured = tmp_path / "VOC2012/SegmentationClass", tmp_path / "VOC2012"
    for index, name in enumerate(indices.names()):
        image, mask = indices.paths(index)
        save(coloured / "JPEGImages" / f"{name}.jpg", np.asarray(Image.open(image)))
        save(classes / f"{name}.png", np.asarray(Image.open(mask).convert("RGB")))
    (coloured / "ImageSets/Segmentation").mkdir(parents=True)
    (coloured / "ImageSets/Segmentation/trainval.txt").write_text("\n".join(indices.names()))
    colours = voc(tmp_path, "trainval", mask_format="palette")
    for index in range(len(indices)):
        assert np.array_equal(colours.read_labels(index), indices.read_labels(index))


def test_the_10582_images_of_train_aug_are_listed(shared_data, devkit):
    text = (shared_data / "voc_sbd/train_aug.txt").read_text()
    (devkit / "VOCdevkit/VOC2012/ImageSets/Segmentation/train_aug.txt").write_text(text)
    with pytest.raises(DataError, match=r"10582 names \(2011_003276, .*without JPEGImages"):
        voc(devkit, "train_aug")


def test_the_voc_layout_with_an_image_that_has_no_mask_is_refused_for_its_list_alone(shared_data):
    root = shared_data / "layouts/voc_dataset/voc_dataset1"
    assert voc(root, "train", mask_format="palette").read(0).labels.shape == (10, 20)
    with pytest.raises(DataError, match=r"2007_000002\) without SegmentationClass"):
        voc(root, "test", mask_format="palette")


# CamVid.


def test_camvid_splits_are_folders(tmp_path, touch):
    touch(tmp_path, "train/a.png", "trainannot/a.png", "val/b.jpg", "valannot/b.png")
    assert camvid(tmp_path, "val").names() == ("b",)


def test_an_absent_camvid_split_is_named_with_the_layout(tmp_path, touch):
    touch(tmp_path, "train/a.png", "trainannot/a.png")
    with pytest.raises(DataError, match=r"tran: no such split; did you mean 'train'.; data=camvid expects"):
        camvid(tmp_path, "tran")


def test_camvid_masks_may_be_named_by_the_config(tmp_path, touch):
    touch(tmp_path, "train/a.png", "labels/train/a_L.png")
    assert camvid(tmp_path, masks="labels/{split}/*_L.png").names() == ("a",)


def test_camvid_patterns_must_tell_splits_apart(tmp_path):
    with pytest.raises(ConfigError, match="splits would mix"):
        camvid(tmp_path, masks="masks")


@pytest.mark.parametrize(("split", "length"), [("train", 367), ("val", 101)])
def test_camvid_has_its_published_number_of_images(shared_data, split, length):
    assert len(camvid(shared_data / "camvid", split)) == length


def test_camvid_labels_are_eleven_classes_and_ignored_void(shared_data):
    dataset = camvid(shared_data / "camvid", "val")
    seen = set()
    for index in range(0, len(dataset), 10):
        seen.update(np.unique(dataset.read_labels(index)).tolist())
    assert seen == {*range(11), 255}


def test_a_camvid_image_is_480_by_360(shared_data):
    assert camvid(shared_data / "camvid").read(0).image.shape == (360, 480, 3)


@pytest.mark.parametrize(("split", "length"), [("train", 1), ("val", 1), ("test", 2)])
def test_the_camvid_layout_is_read_in_all_its_splits(shared_data, split, length):
    colours = [[0, 128, 192], [128, 64, 128], [64, 128, 64], [192, 128, 64], [0, 128, 64], [128, 128, 0], [192, 0, 128]]
    colours += [[128, 128, 128]]
    classes = [f"{index}" for index in range(len(colours))]
    dataset = camvid(
        shared_data / "layouts/camvid_dataset",
        split,
        classes=classes,
        labels=None,
        palette=colours,
        mask_format="palette",
    )
    assert [dataset.read(index).labels.shape for index in range(len(dataset))] == [(1, 5)] * length


# Plain folders of the shared layouts: void, animal, archway, bicyclist, child, road.

SEGMENTATION_COLOURS = [[0, 0, 0], [64, 128, 64], [192, 0, 128], [0, 128, 192], [192, 128, 64], [128, 64, 128]]


@pytest.mark.parametrize(
    ("name", "patterns"),
    [
        ("dataset", {"images": "images", "masks": "masks"}),
        ("non_standard_dataset", {"images": "images/image_*.png", "masks": "masks/gt_*.png"}),
    ],
)
def test_colour_masks_of_plain_folders_are_decoded(shared_data, name, patterns, folder):
    colours = [*SEGMENTATION_COLOURS, [128, 128, 128]]
    options = {"classes": list("abcdefg"), "palette": colours, "mask_format": "palette"}
    dataset = folder(
        shared_data / "layouts/common_semantic_segmentation_dataset" / name, "train", **patterns, **options
    )
    assert dataset.names() == ("0001", "0002")
    mask = dataset.paths(0)[1]
    decoded = np.array(colours)[dataset.read_labels(0)]
    assert decoded.tolist() == np.asarray(Image.open(mask)).tolist()


def test_binary_masks_of_electron_microscopy_are_two_classes_of_one_channel(shared_data, folder):
    options = {"images": "images", "masks": "labels", "mask_format": "binary", "in_channels": 1}
    sample = folder(shared_data / "isbi2012", **options).read(0)
    assert sample.image.shape == (512, 512, 1)
    assert set(np.unique(sample.labels)) == {0, 1}


def test_the_default_palette_is_vocs_colour_map(devkit):
    assert voc(devkit).palette == default_palette(21)
