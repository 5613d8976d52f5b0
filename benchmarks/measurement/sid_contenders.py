"""Residual quantizers that `sid_tokenization.py` races, each in a process of its own that imports no more than it."""

import time

import numpy as np

from measurement.own_process import peak_gb

STEPS, BALANCED = 10, 5  # Lloyd steps a level; those of ours that are balanced


def contend(name: str, path: str, sizes: tuple[int, ...]) -> dict:
    """Runs one contender on the embeddings of a file: seconds, error per ad, peak GB, largest cluster over the cap."""
    data = np.load(path)
    start = time.perf_counter()
    if name == "gr4ad":
        from gr4ad.tokenization import MGMRQuantizer

        start = time.perf_counter()
        quantizer = MGMRQuantizer(list(sizes), iterations=STEPS - BALANCED, balanced_iterations=BALANCED)
        codes, books = quantizer.fit(data), quantizer.codebooks
    elif name == "faiss":
        import faiss

        start = time.perf_counter()
        index = faiss.ResidualQuantizer(data.shape[1], len(sizes), 8)
        faiss.copy_array_to_vector(np.log2(sizes).astype(np.uint64), index.nbits)
        index.set_derived_values()
        index.train_type, index.max_beam_size = faiss.ResidualQuantizer.Train_default, 1
        index.cp.niter = STEPS
        index.max_mem_distances = 1 << 30  # else the distances of all ads at once: 20 GB
        index.train(data)
        packed = np.concatenate(
            [index.compute_codes(part) for part in np.array_split(data, max(1, len(data) // 50_000))]
        )
        seconds = time.perf_counter() - start
        codes = faiss.unpack_bitstrings(packed, np.log2(sizes).astype(int)).astype(np.int64)
        flat = faiss.vector_to_array(index.codebooks).reshape(-1, data.shape[1])
        return score(data, codes, np.split(flat, np.cumsum(sizes)[:-1]), seconds)
    else:
        from semantic_id import RQKMeans  # installed for this comparison alone

        start = time.perf_counter()
        peer = RQKMeans(len(sizes), list(sizes), implementation=name, max_iter=STEPS, n_init=1, random_state=0)
        peer.fit(data)
        codes = np.asarray(peer.encode(data))
        seconds = time.perf_counter() - start
        residual = data - np.asarray(peer.decode(codes), dtype=np.float32)
        return {"seconds": seconds, "error": float((residual**2).sum(1).mean()), "peak_gb": peak_gb(), "fullest": 0.0}
    return score(data, codes, books, time.perf_counter() - start)


def score(data: np.ndarray, codes: np.ndarray, books: list[np.ndarray], seconds: float) -> dict:
    peak, error, fullest = peak_gb(), 0.0, 0.0
    for start in range(0, len(data), 100_000):
        block = data[start : start + 100_000].copy()
        for level, book in enumerate(books):
            block -= book[codes[start : start + 100_000, level]]
        error += float((block**2).sum())
    for level, book in enumerate(books):
        fullest = max(fullest, np.bincount(codes[:, level]).max() / -(-len(data) // len(book)))
    return {"seconds": seconds, "error": error / len(data), "peak_gb": peak, "fullest": float(fullest)}
