"""Images that a dataset holds twice: byte for byte, or changed so little that the eye sees no difference.

A copy in train of an image in test makes the test easier than it is; a copy under another label means that one of
the two labels is wrong; a copy under another patient means that two patients are one. Within a patient, that lies in
one part and has one role, copies do no harm.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import ndimage
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm.auto import tqdm

from kdoct_utils.data.splits import PART, UNUSED, roles_in

COPY_COLUMNS = ["key", "n", "crosses", "patients", "labels", "parts", "roles", "scan_ids"]
CROSSED = {"patient": "patients", "label": "labels", "part": "parts", "role": "roles"}  # of a scan -> of a set

HASH_SIDE = 16  # lowest frequencies of the cosine transform along each axis: 255 bits without the mean
HASH_DISTANCE = 40  # bits that may differ; copies cropped by 1 % differ in up to 34
DETAIL_SIGMA = 2.0  # thumbnail pixels; what is coarser, the place of the retina, is alike in many eyes
NEAR = 0.97  # least correlation of the details of near-identical images
BLOCK = 1024  # rows compared at once: 4 MB, whatever the number of images


def identical_images(
    table: pd.DataFrame, hashes: dict[str, str], split: pd.DataFrame | None = None, fold: int = 0
) -> pd.DataFrame:
    """Sets of byte-identical images that lie in several patients, labels, official parts or roles.

    table: scan table with scan_id, patient, label, and part where the publishers fixed one; a blank patient or part
    is unknown and differs from nothing. hashes: scan_id -> SHA-256 (ScanSet.hashes). split: of splits.make_splits,
    whose fold says the roles; None leaves roles out.

    Returns a DataFrame of COPY_COLUMNS, one row a set, in the order of the table: key (the hash), n (scans), crosses
    (of what it holds several: "patient", "label", "part", "role"), then what it holds, as sorted tuples.
    ``attrs["harmless"]``: how many sets cross nothing.
    """
    return _crossing_sets(_places(table, split, fold), table["scan_id"].map(hashes))


def near_identical(
    table: pd.DataFrame,
    thumbnails: np.ndarray,
    hashes: dict[str, str],
    split: pd.DataFrame | None = None,
    fold: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Sets of images of different patients that are copies to the eye but not byte for byte.

    table, hashes, split, fold: as in identical_images; here patients that share a ``group`` are one, and of images
    of unknown patients only those with another label, part or role count.
    thumbnails: uint8 (n, 32, 32), in the order of the table (ScanSet.thumbnails).

    Two images are near-identical if their perceptual hashes differ in at most HASH_DISTANCE of 255 bits and their
    details correlate at NEAR or more (see perceptual_hash and similarity). Measured when NEAR was chosen: copies that
    were recompressed, resized to 80 %, brightened by 15 % or cropped by 1 %, .977 and more; different patients at most
    .961 (98 million pairs of phantom frames; .58 among 17 real scans). Slices of one patient, 240 um apart, reach .997
    in phantoms, so within a patient such pairs are only counted.

    Returns a DataFrame of COPY_COLUMNS and similarity (the least of the pairs that join the set), one row a set; key
    is its first scan_id. ``attrs["harmless"]``: how many near-identical pairs are within one patient, or of unknown
    patients with the same label, part and role. Time grows with the square of n: half a minute for 108,000 images.
    """
    places = _places(table, split, fold)
    first, second, likeness = _near_pairs(thumbnails, pd.factorize(table["scan_id"].map(hashes))[0], progress)

    def differ(values: pd.Series) -> np.ndarray:
        """Which pairs (pairs,) have two values, both known."""
        codes = pd.factorize(values)[0]  # -1: unknown
        a, b = codes[first], codes[second]
        return (a != b) & (a >= 0) & (b >= 0)

    unknown = places["patient"].isna().to_numpy()
    by_place = differ(places["label"]) | differ(places["part"]) | differ(places["role"])
    matters = differ(table["group"].mask(unknown)) | ((unknown[first] | unknown[second]) & by_place)
    joined = coo_array((np.ones(int(matters.sum()), bool), (first[matters], second[matters])), shape=(len(table),) * 2)
    component = connected_components(joined, directed=False)[1]  # (n,); an image without a copy is alone in its own
    found = _crossing_sets(places, pd.Series(component, index=table.index))
    least = pd.Series(likeness[matters]).groupby(component[first[matters]]).min()
    found["similarity"] = found["key"].map(least).astype(float)
    found["key"] = [scan_ids[0] for scan_ids in found["scan_ids"]]
    found.attrs["harmless"] = int((~matters).sum())
    return found


def perceptual_hash(thumbnails: np.ndarray) -> np.ndarray:
    """Booleans (n, 255) that change little when the image does: which low frequencies are above their median.

    thumbnails: (n, height, width), at least 16 x 16. The hash of Zauner, Implementation and benchmarking of
    perceptual image hash functions (2010), of 16 x 16 cosine coefficients instead of 8 x 8.
    """

    low = dctn(thumbnails.astype(np.float32), axes=(1, 2))[:, :HASH_SIDE, :HASH_SIDE].reshape(len(thumbnails), -1)
    return low[:, 1:] > np.median(low[:, 1:], axis=1, keepdims=True)


def details(thumbnails: np.ndarray) -> np.ndarray:
    """What is finer than DETAIL_SIGMA, float16 (n, height, width): the thumbnail less itself blurred."""

    images = thumbnails.astype(np.float32)
    sharp = images - ndimage.gaussian_filter(images, (0, DETAIL_SIGMA, DETAIL_SIGMA))
    return (sharp - sharp.mean(axis=(1, 2), keepdims=True)).astype(np.float16)


def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlation of details after a shift by a fraction of a pixel: (n,) in 0..1.

    a, b: details (n, height, width). A crop by 1 % moves a thumbnail by a third of a pixel, which alone lowers the
    correlation to .90. To first order a moved image is the image and its two gradients, added with weights (Lucas
    and Kanade, IJCAI 1981), so b is regressed on these three of a, and a on those of b; the lesser of the two
    multiple correlations counts. 0 where an image is flat.
    """
    a, b = a.astype(np.float32), b.astype(np.float32)
    return np.minimum(_explained(a, b), _explained(b, a))


def _explained(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    down, across = np.gradient(a, axis=(1, 2))
    given = np.stack([a, down, across], axis=1).reshape(len(a), 3, -1)
    given = given - given.mean(axis=2, keepdims=True)  # (n, 3, pixels)
    wanted = b.reshape(len(b), -1, 1)
    shared = given @ wanted  # (n, 3, 1)
    inverse = np.linalg.pinv(given @ given.transpose(0, 2, 1), rcond=1e-6, hermitian=True)
    total = (wanted**2).sum(axis=(1, 2))
    share = (shared.transpose(0, 2, 1) @ inverse @ shared)[:, 0, 0] / np.where(total > 0, total, 1)
    return np.sqrt(np.clip(share, 0, 1))


def _near_pairs(
    thumbnails: np.ndarray, content: np.ndarray, progress: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows (pairs,) of the first and second image of each near-identical pair, and their similarity.

    content: (n,) the same number for byte-identical images, which are left out.
    """
    fine = details(thumbnails)
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))]
    for first, second in candidate_pairs(perceptual_hash(thumbnails), progress):
        new = content[first] != content[second]
        first, second = first[new], second[new]
        for start in range(0, len(first), BLOCK):
            a, b = first[start : start + BLOCK], second[start : start + BLOCK]
            likeness = similarity(fine[a], fine[b])
            near = likeness >= NEAR
            found.append((a[near], b[near], likeness[near]))
    return tuple(np.concatenate(column) for column in zip(*found, strict=True))


def candidate_pairs(bits: np.ndarray, progress: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of rows, first < second, whose hashes (n, bits) differ in at most HASH_DISTANCE bits, block by block."""
    signs = np.where(bits, np.float32(1), np.float32(-1))
    least = bits.shape[1] - 2 * HASH_DISTANCE  # of the dot product: equal bits less different ones
    for top in tqdm(range(0, len(signs), BLOCK), desc="near-identical", unit="block", disable=not progress):
        for left in range(top, len(signs), BLOCK):
            first, second = np.nonzero(signs[top : top + BLOCK] @ signs[left : left + BLOCK].T >= least)
            first, second = first + top, second + left
            yield first[first < second], second[first < second]


def _places(table: pd.DataFrame, split: pd.DataFrame | None, fold: int) -> pd.DataFrame:
    """scan_id, patient, label, part and role of each scan; NaN where unknown or, for a role, where it has no use."""
    places = table.reindex(columns=["scan_id", "patient", "label", PART])
    role = pd.Series(np.nan, table.index) if split is None else roles_in(table, split, fold)
    places["role"] = role.where(role != UNUSED)
    return places.where(places != "")


def _crossing_sets(places: pd.DataFrame, keys: pd.Series) -> pd.DataFrame:
    """The sets of equal key that hold several patients, labels, parts or roles, as COPY_COLUMNS."""
    grouped = places.groupby(keys, sort=False)
    several = grouped[list(CROSSED)].nunique() > 1  # (sets, 4)
    crossing = keys.isin(several.index[several.any(axis=1)])
    rows = []
    for key, members in places[crossing].groupby(keys[crossing], sort=False):
        held = {CROSSED[name]: tuple(sorted(members[name].dropna().unique())) for name in CROSSED}
        crosses = tuple(name for name in CROSSED if several.at[key, name])
        rows.append({"key": key, "n": len(members), "crosses": crosses, **held,
                     "scan_ids": tuple(sorted(members["scan_id"]))})  # fmt: skip
    found = pd.DataFrame(rows, columns=COPY_COLUMNS)
    found.attrs["harmless"] = int((grouped.size() > 1).sum()) - len(found)
    return found
