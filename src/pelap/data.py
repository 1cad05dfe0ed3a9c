"""STOPGAP, to be replaced by the data room being written: cifar10 from parquet only."""
import io, os
from dataclasses import dataclass
from functools import lru_cache
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, torch
from PIL import Image
from pelap.seeding import generator

@dataclass(frozen=True)
class Pictures:
    pixels: torch.Tensor
    labels: torch.Tensor
    class_names: tuple
    def __len__(self): return len(self.labels)
    def fetch(self, indices): return self.pixels[indices]

@dataclass(frozen=True)
class Splits:
    train: Pictures
    test: Pictures

NAMES = ("airplane","automobile","bird","cat","deer","dog","frog","horse","ship","truck")
def _load(folder, split, n):
    import pyarrow.parquet as pq
    rows = pq.read_table(sorted(Path(folder).glob(f"{split}-*.parquet")))
    imgs = rows["img"].to_pylist()[:n]; labels = rows["label"].to_pylist()[:n]
    with ThreadPoolExecutor(2) as pool:
        a = list(pool.map(lambda r: np.asarray(Image.open(io.BytesIO(r["bytes"])).convert("RGB")), imgs))
    return Pictures(torch.from_numpy(np.stack(a)).permute(0,3,1,2).contiguous(), torch.tensor(labels), NAMES)

def load_pictures(config, seed):
    if config.source == "photos":
        g = torch.Generator().manual_seed(0)
        mk = lambda n: Pictures(torch.randint(0,256,(n,3,config.size,config.size),generator=g,dtype=torch.uint8), torch.arange(n)%5, tuple("abcde"))
        return Splits(mk(config.num_train or 8192), mk(config.num_test or 1024))
    folder = config.path or os.environ["PELAP_DATA"] + "/cifar10"
    return Splits(_load(folder, "train", config.num_train), _load(folder, "test", config.num_test))

@lru_cache(2)
def epoch_order(num_pictures, seed, epoch):
    return torch.randperm(num_pictures, generator=generator(seed, "order", epoch))

def to_batch(pictures, device, flips):
    x = pictures.to(device)
    if flips is not None:
        x = torch.where(flips.to(device)[:, None, None, None], x.flip(3), x)
    return x.float().div(127.5).sub(1)
