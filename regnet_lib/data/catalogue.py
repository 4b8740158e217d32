"""What each dataset is, who may have it, and where it comes from.

    for entry in CATALOGUE.values():
        print(entry.name, entry.what, entry.licence)

Only `Archive`s are downloaded (see `fetch`). Everything else gets instructions, because its owner
asks for a registration, hands it out through a page for people, or publishes no checksum.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from regnet_lib.data.nifti import BadInputError


@dataclass(frozen=True)
class Archive:
    """One file to download.

    Attributes:
        name: of the file.
        urls: where it lies, in the order in which they are tried; none if it comes on request.
        digest: "sha256:..." or "md5:...", as `digest_source` states it.
    """

    name: str
    urls: tuple[str, ...]
    digest: str
    digest_source: str


@dataclass(frozen=True)
class Entry:
    """One dataset.

    Attributes:
        name: of the adapter, and of the folder in `$REGNET_DATA`.
        what: in one line. `used_by`: tables of the papers, or what else it is good for.
        origin: the owner's page.
        licence: or terms of use.
        registration: what the owner asks for before you may have it; empty for nothing.
        cases: expected numbers of cases by split; None where they follow from the files.
        archives: what can be verified; downloaded if they have addresses.
        steps: what to do by hand otherwise, in order.
        options: how the adapter is opened for a check.
    """

    name: str
    what: str
    used_by: str
    origin: str
    licence: str
    registration: str = ""
    cases: Mapping[str, int | None] = field(default_factory=dict)
    archives: tuple[Archive, ...] = ()
    steps: tuple[str, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def fetchable(self) -> bool:
        """Whether every archive has an address."""
        return bool(self.archives) and all(archive.urls for archive in self.archives)


LEARN2REG = "https://learn2reg.grand-challenge.org"
# Published with the DIR-Lab converter of the Python package vroc, for the archives of the owner.
_DIRLAB_SHA256 = (
    "5589732668c3694e46a3c0eda4ccaceb4e634de08c633bcfb0362644caf1287a",
    "237b9cf423967f86149c3680029b7c6afae5c3e9b315c91a00d43953362717c8",
    "824d9cb93891a5fd73835aae28cd3b21cdb22c81f552f5fb958a06c63b6c76fc",
    "cd5603cb2611911f04b188dd1f26f988d6740fe077dba02734b7f50b344bda0e",
    "6bf6afffcc01b0039f84c4f4ab4dd9aae9807d35b217196430697865a8dbddc2",
    "a48a87ff5feee9decd8f7e27e2053de904977406e1f74e21b1247de4c40de916",
    "8154f7f84ad927a135df11e6c10d5db8d2f7a92d346cf17978ed8069a569389a",
    "29b5f777a5798e72a1ec1a089e0f3d4ee690bcdc4b62a78b8f83882037a35743",
    "138282e9ce4ab55093611456776a7ef7baa042d2a53a8da0d37f2579a1611a57",
    "c402b0d3f99a1fe470e758816a3f4d1f07248ac8f34bc0cf83cea239c6e410f0",
)

CATALOGUE: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            "phantom",
            "computed brains and lungs with known displacement, labels and landmarks",
            "tests and chapters",
            "made by the library",
            "none needed",
        ),
        Entry(
            "lpba40",
            "40 brains (T1) with 56 hand-drawn structures, 1 mm",
            "LGANet++ Tables 1 and 2",
            "https://resource.loni.usc.edu/resources/atlases-downloads",
            "terms of LONI, shown with the download; do not pass it on",
            "accept LONI's terms; the copy that the authors of LGANet++ publish shows none",
            {"train": 30, "test": 9},
            steps=(
                "git clone https://github.com/huangzyong/LGANet-Registration",
                "git -C LGANet-Registration checkout cf193e3a8c",
                "cp -r LGANet-Registration/data/LPBA40 {folder}",
            ),
            options={"spacing_mm": 4},
        ),
        Entry(
            "ixi",
            "576 brains (T1), FreeSurfer's copy with 35 structures, 1 mm",
            "LGANet++ Table 3",
            "https://surfer.nmr.mgh.harvard.edu/pub/data/ixi/",
            "CC BY-SA 3.0",
            "",
            {"train": 403, "validation": 58, "test": 114},
            steps=(
                "download the subjects from the page above; no checksum is published",
                "put one folder per subject with aligned_norm.nii.gz and aligned_seg35.nii.gz into "
                "{folder}",
            ),
        ),
        Entry(
            "ixi_transmorph",
            "576 brains (T1) and an atlas, TransMorph's copy with 30 structures, 1 mm",
            "AD-RegNet Tables III and IV",
            "https://github.com/junyuchen245/TransMorph_Transformer_for_Medical_Image_Registration"
            "/blob/main/IXI/TransMorph_on_IXI.md",
            "CC BY-SA 3.0",
            "",
            {"train": 403, "validation": 58, "test": 115},
            steps=(
                "download the archive (1.44 GB, Google Drive) from the page above; no checksum is "
                "published",
                "move its folder IXI_data to {folder}",
            ),
        ),
        Entry(
            "ixi_hh_2mm",
            "125 brains (T1) of one hospital with 30 structures, 2 mm",
            "a small stand-in for IXI",
            "https://github.com/CBICA/NiChart_Project",
            "CC BY-SA 3.0; label maps from the NiChart project",
            "",
            {"train": 70, "validation": 18, "test": 36},
            steps=(
                "scans and label maps lie in the history of the repository above",
                "prepare them as the book's data page says, into {folder}",
            ),
        ),
        Entry(
            "oasis",
            "414 brains (T1) with 35 structures, 1 mm",
            "LGANet++ Table 4",
            "https://github.com/adalca/medical-datasets/blob/master/neurite-oasis.md",
            "OASIS data use terms, https://www.oasis-brains.org/#access",
            "agree to the terms of use",
            {"test": 413},
            archives=(
                Archive(
                    "neurite-oasis.v1.0.tar",
                    (
                        "https://surfer.nmr.mgh.harvard.edu/ftp/data/neurite/data/"
                        "neurite-oasis.v1.0.tar",
                    ),
                    "md5:081392a8150ff99ab7a64a9ded377835",
                    "neurite-oasis.md of adalca/medical-datasets",
                ),
            ),
        ),
        Entry(
            "oasis_samples",
            "two brains of OASIS with FreeSurfer's structures, 1 mm",
            "a first real pair",
            "https://github.com/voxelmorph/voxelmorph and https://github.com/learn2reg/tutorials2019",
            "OASIS data use terms, https://www.oasis-brains.org/#access",
            "agree to the terms of use",
            {"test": 1},
            steps=(
                "take data/test_scan.npz of the first repository and "
                "unsupervised/data/3D/subject_1_{{vol,seg}}.npz of the second",
                "write them as the book's data page says, into {folder}",
            ),
        ),
        Entry(
            "msd_hippocampus",
            "260 crops around one hippocampus with 2 parts, 1 mm",
            "quick real experiments",
            "http://medicaldecathlon.com",
            "CC BY-SA 4.0",
            "",
            {"train": None, "validation": None, "test": None},
            archives=(
                Archive(
                    "Task04_Hippocampus.tar",
                    ("https://msd-for-monai.s3-us-west-2.amazonaws.com/Task04_Hippocampus.tar",),
                    "md5:9d24dba78a72977dbd1d2e110310f31b",
                    "monai/apps/datasets.py of Project-MONAI/MONAI",
                ),
            ),
        ),
        Entry(
            "dirlab",
            "10 people breathing in CT, 300 landmarks each",
            "AD-RegNet Tables I, II and V",
            "the Deformable Image Registration laboratory, Emory University, med.emory.edu "
            "(formerly https://www.dir-lab.com)",
            "as agreed with the group; do not pass it on",
            "ask the group for access",
            {"test": 10},
            archives=tuple(
                Archive(f"Case{number}Pack.zip", (), f"sha256:{digest}", "the package vroc")
                for number, digest in enumerate(_DIRLAB_SHA256, start=1)
            ),
            steps=(
                "ask for access and download Case1Pack.zip to Case10Pack.zip",
                "regnet data fetch dirlab --archives FOLDER-WITH-THE-ZIPS",
            ),
        ),
        Entry(
            "dirlab_phantom",
            "ten computed lungs in the files of dirlab, 300 landmarks each",
            "the protocol of AD-RegNet Table I, and what its leak is worth",
            "made by the library",
            "none needed",
        ),
        Entry(
            "lung_ct",
            "30 people breathed in and out in CT, with lung masks and points",
            "LGANet++ Table 6",
            f"{LEARN2REG}, training part also https://doi.org/10.5281/zenodo.3835682",
            "stated with the Zenodo record",
            "have an account for the challenge's page; Zenodo needs none",
            {"train": 20, "test": 10},
            steps=(
                "download the Lung CT task; the checksum of the archive is shown on its page",
                "unpack it so that {folder}/imagesTr (or {folder}/scans, layout of 2020) exists",
            ),
        ),
        Entry(
            "elastix_lung_ct",
            "the right lung of one person at two dates in CT, 51 landmarks",
            "a small stand-in for lungs",
            "https://github.com/SuperElastix/elastix and "
            "https://github.com/InsightSoftwareConsortium/ITKElastix",
            "Apache-2.0",
            "",
            {"test": 1},
            steps=(
                "the scans lie in the history of the first repository, the corrected landmarks in "
                "examples/data of the second",
                "write them as the book's data page says, into {folder}",
            ),
        ),
        Entry(
            "lung_semireal",
            "real breathing motion on real and computed lungs, the answer known",
            "lungs with a known answer",
            "made from lung_ct (masks and key points) and elastix_lung_ct",
            "those of its sources",
            "",
            {"train": None, "validation": None, "test": None},
            steps=("get the masks and key points of lung_ct, and elastix_lung_ct",),
        ),
        Entry(
            "abdomen_ctmr",
            "8 abdomens in CT and MR with 4 organs, and unpaired scans",
            "LGANet++ Table 5",
            LEARN2REG,
            "README_LICENCE files of the archive (TCIA, CHAOS, BCV)",
            "have an account for the challenge's page",
            {"train": 90, "test": 6},
            steps=(
                "download the Abdomen MR-CT task; no checksum is known to us",
                "unpack it so that {folder}/imagesTr exists",
            ),
        ),
        Entry(
            "prostate_mr_us",
            "27 prostates in MR and ultrasound with masks, made coarse",
            "two modalities, quickly",
            "https://github.com/DeepRegNet/DeepReg",
            "Apache-2.0",
            "",
            {"train": 25, "test": 2},
            steps=(
                "git clone https://github.com/DeepRegNet/DeepReg",
                "git -C DeepReg checkout 650a2f1a88",
                "cp -r DeepReg/data/test/nifti/paired {folder}",
            ),
        ),
    )
}


def find_entry(name: str) -> Entry:
    """The entry of that name.

    Raises:
        BadInputError: an unknown name; the message lists the known ones.
    """
    if name not in CATALOGUE:
        raise BadInputError(
            f"{name}: expected the name of a dataset, one of {', '.join(sorted(CATALOGUE))}."
        )
    return CATALOGUE[name]


def instructions(entry: Entry, folder: str | os.PathLike) -> str:
    """What to do by hand, as numbered lines."""
    lines = [f"{entry.name}: {entry.what}", f"from {entry.origin}", f"licence: {entry.licence}"]
    lines += [f"you need to: {entry.registration}"] if entry.registration else []
    steps = [step.format(folder=folder) for step in entry.steps]
    return "\n".join(lines + [f"{number}. {step}" for number, step in enumerate(steps, 1)])
