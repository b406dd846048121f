"""What is known about each dataset, in one place: names, licenses, citations, layouts and published counts."""

from dataclasses import dataclass, field, fields

from kdoct_utils import __version__
from kdoct_utils.profiles import CLASS_NAMES

SPLITS = ("patient", "official")
PHANTOMS = ("phantom", "phantom_b")  # drawn from the seed, nothing is read: data_root stays empty


@dataclass(frozen=True)
class DataOptions:
    """What may be asked of a dataset beyond its name; a run has one set of them, kept in its config.json.

    worst_case: keep only scans that show their patient's class (NEH's Class == Label), as its authors did.
    split: "patient", our folds over patients; "official", the publishers' test part held out of every fold.
    keep_shared: with the official split, keep training scans whose patient or image the test part holds too.
    verify: refuse an array file whose MD5 is not the published one.
    fold: whose test patients are tested, 0 to folds - 1.
    """

    worst_case: bool = True
    split: str = "patient"
    keep_shared: bool = False
    verify: bool = True
    fold: int = 0

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"unknown split {self.split!r}; valid splits: {', '.join(SPLITS)}")

    @classmethod
    def types(cls) -> dict[str, type]:
        """Type of each option by its name."""
        return {option.name: type(option.default) for option in fields(cls)}


@dataclass(frozen=True)
class DatasetInfo:
    """The facts of one dataset, for readers, provenance records and the notebooks.

    classes: in the order of CLASS_NAMES. layout: what ``data_root`` must hold.
    published_counts: numbers that the publishers or a careful count of the published files give.
    download: where it is to be had, in words; nothing is downloaded by this package.
    md5: name of a published file -> its MD5. caveats: what spoils a result if it is not minded.
    """

    name: str
    title: str
    version: str
    license: str
    citation: str
    url: str
    classes: tuple[str, ...]
    layout: str
    published_counts: dict[str, int] = field(default_factory=dict)
    download: str = ""
    md5: dict[str, str] = field(default_factory=dict)
    caveats: tuple[str, ...] = ()


DATASETS = {
    info.name: info
    for info in (
        DatasetInfo(
            name="phantom",
            title="Synthetic retinal B-scans drawn by this package",
            version=__version__,
            license="MIT",
            citation="KD-OCT course, kdoct_utils.phantom.render",
            url="",
            classes=CLASS_NAMES[:3],
            layout="none: phantoms are drawn from the seed, data_root stays empty",
        ),
        DatasetInfo(
            name="neh",
            title="Noor Eye Hospital retinal OCT (NEH-UT 2021)",
            version="2021",
            license="CC BY 4.0 (as reported)",
            citation="Sotoudeh-Paima et al., Comput. Biol. Med. 144:105368 (2022); Mendeley Data 8kt969dhx6",
            url="https://data.mendeley.com/datasets/8kt969dhx6",
            classes=("normal", "drusen", "cnv"),
            layout="data_information.csv beside "
            "NEH_UT_2021RetinalOCTDataset/{NORMAL,DRUSEN,CNV}/<n>/[OD|OS/]NNN_Label.{jpg,tif}; extracted or zipped",
            published_counts={
                "rows": 16822,
                "exact duplicate rows": 12,
                "paths without a file": 7,
                "scans": 16803,
                "patients": 441,
                "eyes": 554,
                "groups": 437,
                "linked pairs": 4,
                "patients with contradictory labels": 4,
                "worst-case rows": 12649,
                "worst-case rows, normal": 5667,
                "worst-case rows, drusen": 3742,
                "worst-case rows, cnv": 3240,
                "worst-case scans": 12641,
                "NORMAL folder, normal label": 5667,
                "NORMAL folder, drusen label": 29,
                "NORMAL folder, cnv label": 0,
                "DRUSEN folder, normal label": 2129,
                "DRUSEN folder, drusen label": 3740,
                "DRUSEN folder, cnv label": 0,
                "CNV folder, normal label": 781,
                "CNV folder, drusen label": 1223,
                "CNV folder, cnv label": 3234,
            },
            download="Mendeley Data, record 8kt969dhx6: one zip that holds another",
            caveats=(
                "patient numbers restart in each class folder",
                "some case folders are byte-identical to another, also across classes",
                "file format, scale bar and black canvas go with the class: a network can learn them instead",
                "outer slices of a diseased eye often look normal",
            ),
        ),
        DatasetInfo(
            name="ucsd",
            title="UCSD / Kermany labeled OCT",
            version="3 (2 is the Kaggle copy)",
            license="CC BY 4.0",
            citation="Kermany et al., Cell 172:1122 (2018); Mendeley Data rscbjbr9sj",
            url="https://data.mendeley.com/datasets/rscbjbr9sj",
            classes=CLASS_NAMES,
            layout="{CNV,DME,DRUSEN,NORMAL}/CLASS-patient-index.jpeg, or the same under train, test and val; or a zip",
            # 108,309 are the training images, 97,477 + 10,832 of OCTMNIST, which was made from them and the 1,000.
            published_counts={
                "training scans (version 3)": 108309,
                "test scans (version 3)": 1000,
                "test patients (version 3)": 635,
                "scans (version 2)": 84484,
                "patients (version 2)": 4657,
                "patients in train and test (version 2)": 546,
            },
            download="Mendeley Data, record rscbjbr9sj (version 3); version 2 is also on Kaggle",
            caveats=(
                "the number in a file name is the patient, across classes and parts",
                "in version 2, train shares most of the test patients, and many images occur twice",
                "registration left white borders in part of the images",
            ),
        ),
        DatasetInfo(
            name="octmnist",
            title="OCTMNIST (MedMNIST v2)",
            version="2",
            license="CC BY 4.0",
            citation="Yang et al., Sci. Data 10:41 (2023); images from Kermany et al., Cell 172:1122 (2018)",
            url="https://medmnist.com",
            classes=CLASS_NAMES,
            layout="octmnist.npz, octmnist_64.npz, octmnist_128.npz or octmnist_224.npz: the file, or its folder",
            published_counts={"train scans": 97477, "validation scans": 10832, "test scans": 1000},
            download="the MedMNIST record on Zenodo, linked from medmnist.com; take one size",
            md5={
                "octmnist.npz": "c68d92d5b585d8d81f7112f81e2d0842",
                "octmnist_64.npz": "e229e9440236b774d9f0dfef9d07bdaf",
                "octmnist_128.npz": "0a97e76651ace45c5d943ee3f65b63ae",
                "octmnist_224.npz": "abc493b6d529d5de7569faaef2773ba3",
            },
            caveats=(
                "no patient numbers: it cannot be split by patient, and a patient may lie in several published parts",
                "intervals resample scans, which are not independent, and so are too narrow",
                "the classes have other shares in train than in test",
                "enlarging a small picture adds no detail",
            ),
        ),
        DatasetInfo(
            name="octdl",
            title="OCTDL",
            version="2024",
            license="CC BY 4.0 (as reported)",
            citation="Kulyabin et al., Sci. Data 11:365 (2024)",
            url="https://data.mendeley.com/datasets/sncdhf53xc",
            classes=CLASS_NAMES,
            layout="OCTDL_labels.csv beside OCTDL/<DISEASE>/<disease>_<id>_<k>.jpg",
            published_counts={
                "scans": 2064,
                "patients": 820,
                "AMD scans": 1231,
                "AMD patients": 421,
                "DME scans": 147,
                "ERM scans": 155,
                "NO scans": 332,
                "RAO scans": 22,
                "RVO scans": 101,
                "VID scans": 76,
            },
            download="Mendeley Data, record sncdhf53xc: OCTDL.zip, to be extracted beside OCTDL_labels.csv",
            caveats=(
                "diseases that the course has no class for, and suspected neovascularization, are left out",
                "one patient is in two diseases",
                "the class of the whole patient is not given",
                "in the table 0 stands for a missing value, and the image height is spelled image_hight",
            ),
        ),
        DatasetInfo(
            name="csv",
            title="Your own scans",
            version="",
            license="yours",
            citation="",
            url="",
            classes=CLASS_NAMES,
            layout="a CSV file (or a folder with scans.csv) with the columns path, label, patient; optional eye, "
            "slice, patient_class, part; further columns are kept; paths are relative to the CSV file",
        ),
        DatasetInfo(
            name="phantom_b",
            title="Synthetic B-scans in a second scanner's style",
            version=__version__,
            license="MIT",
            citation="KD-OCT course, kdoct_utils.phantom.scanners",
            url="",
            classes=CLASS_NAMES[:3],
            layout="none: phantoms are drawn from the seed, data_root stays empty",
            caveats=("the second scanner is invented, it imitates no product",),
        ),
    )
}
