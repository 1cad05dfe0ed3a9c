"""Pictures in: a source becomes uint8 pictures, and those become batches in [-1, 1].

    DataConfig => Splits(train, test) of Pictures => fetch: uint8 (B, 3, H, W) => to_batch: float

Every source (photos.py, folders.py, tables.py) says how to make one picture from its row number;
load.py decides whether all are decoded now or again for each fetch, with the same pixels.
"""
