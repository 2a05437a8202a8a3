"""How fast is the whole fine-tuning loop? simseg's `finetune` against the loop of segmentation-models-pytorch's pet
example.

The example's side is `binary_segmentation_intro` as printed: its OxfordPetDataset read and resized by the workers of a
DataLoader, normalisation in the model, Dice loss, counting in every step, Adam with a cosine, fp32 (without Lightning's
own time). Both train the same U-Net on the same images; ours counts its validation too, a tenth of the images after
every epoch, and the example does not. Settings are pixels:encoder:batch:steps.

    python benchmarks/bench_unet.py
"""
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch
from common import compare_loops, finish, parse
from PIL import Image
from segmentation_models_pytorch.datasets import OxfordPetDataset
from torch import nn

from simseg.augmentations import IMAGENET_MEAN, IMAGENET_STD
from simseg.core import parameter_defaults
from simseg.data import load_pairs, to_device
from simseg.masks import BACKGROUND
from simseg.run import Kept
from simseg.synthetic import draw_synthetic
from simseg.unet import finetune, make_unet


def write_pairs(folder: Path, n: int, size: int):
    "Images and trimaps, once as Oxford-IIIT Pet has them and once, by links, as a folder of our own."
    pets = folder / "pets"
    own = folder / "own"
    for path in (pets / "images", pets / "annotations" / "trimaps", own / "masks"): path.mkdir(parents=True)
    (own / "images").symlink_to(pets / "images")
    data = draw_synthetic(n, size)
    lines = []
    for i, (name, image, trimap) in enumerate(zip(data.names, data.images, data.masks)):
        Image.fromarray(image.transpose(1, 2, 0)).save(pets / "images" / f"{name}.jpg", quality=92)
        Image.fromarray(trimap).save(pets / "annotations" / "trimaps" / f"{name}.png")
        Image.fromarray(np.uint8(trimap != BACKGROUND) * 255).save(own / "masks" / f"{name}.png")
        lines.append(f"{name} 1 1 1")
        if i % 9 == 0: lines.append(f"{name} 1 1 1")  # the dataset keeps every tenth line for validation
    (pets / "annotations" / "trainval.txt").write_text("\n".join(lines), encoding="utf-8")


def simseg_epochs(folder: Path, size: int, encoder: str, batch: int, accelerator, compile: str):
    "Epochs of our loop."
    params = parameter_defaults("unet")
    params |= {"batch_size": batch, "epochs": 10**6, "seed": 0, "compile": compile}
    data = load_pairs(str(folder / "own"), size)
    images = to_device(data.images, accelerator.device)
    masks = to_device(data.masks, accelerator.device)
    train = torch.arange(len(data))
    yield from finetune(make_unet("scratch", encoder), images, masks, train, train[::10], params, accelerator, Kept())


class ResizedPets(OxfordPetDataset):
    "SimpleOxfordPetDataset, whose 256 pixels are ours to choose."

    def __init__(self, root, mode, size):
        super().__init__(root, mode)
        self.size = (size, size)

    def __getitem__(self, idx):
        sample = super().__getitem__(idx)
        image = self.resized(sample["image"], Image.BILINEAR)
        mask = self.resized(sample["mask"], Image.NEAREST)
        trimap = self.resized(sample["trimap"], Image.NEAREST)
        return {"image": np.moveaxis(image, -1, 0), "mask": mask[None], "trimap": trimap[None]}

    def resized(self, pixels, method): return np.array(Image.fromarray(pixels).resize(self.size, method))


class PetModel(nn.Module):
    "The example's model: its forward pass, and its shared step."

    def __init__(self, encoder: str):
        super().__init__()
        self.model = smp.create_model("Unet", encoder_name=encoder, encoder_weights=None, in_channels=3, classes=1)
        # what smp.encoders.get_preprocessing_params gives, which asks the hub
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1))
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1))
        self.loss_fn = smp.losses.DiceLoss(smp.losses.BINARY_MODE, from_logits=True)

    def forward(self, image): return self.model((image - self.mean) / self.std)

    def shared_step(self, batch, device):
        image = batch["image"].to(device)
        mask = batch["mask"].to(device)
        logits = self.forward(image)
        loss = self.loss_fn(logits, mask)
        predicted = (logits.sigmoid() > 0.5).float()
        return loss, smp.metrics.get_stats(predicted.long(), mask.long(), mode="binary")


# https://github.com/qubvel-org/segmentation_models.pytorch/blob/main/examples/binary_segmentation_intro.ipynb
def example_epochs(folder: Path, size: int, encoder: str, batch: int, device: torch.device, workers: int):
    "Epochs of the example's loop."
    model = PetModel(encoder).to(device).train()
    dataset = ResizedPets(folder / "pets", "train", size)
    loader = torch.utils.data.DataLoader(dataset, batch_size=batch, shuffle=True, num_workers=workers,
                                         persistent_workers=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=1000, eta_min=1e-5)
    while True:
        outputs = []
        for batch_of in loader:
            loss, stats = model.shared_step(batch_of, device)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            outputs.append(stats)
        yield outputs


if __name__ == "__main__":
    args = parse(__doc__, settings=["64:resnet18:32:4", "224:resnet50:8:4"], compile="off", rounds=5)
    finish("unet", compare_loops(args, write_pairs, simseg_epochs, "smp's example", example_epochs), args)
