"""Reference numbers from the iPinYou RTB data set, to which the market is calibrated.

Source: iPinYou RTB data set, Zhang et al. 2014, "Real-Time Bidding Benchmarking with iPinYou Dataset", arXiv
1407.7073; statistics of the test periods of campaigns 1458, 2259, 2261 (80,000 impressions each; pCTR by logistic
regression).
"""

import numpy as np

LEVELS = np.array([0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
# Market price paid by the winner, RMB fen per thousand impressions.
MARKET_PRICE = np.array(
    [
        [5, 10, 17, 20, 34, 50, 53, 70, 70, 87, 146, 199, 278],
        [4, 7, 13, 22, 34, 50, 69, 81, 121, 160, 201, 225, 281],
        [2, 5, 11, 20, 32, 50, 66, 95, 128, 167, 196, 239, 286],
    ],
    dtype=float,
)
# Predicted click probability per impression.
PCTR = (
    np.array(
        [
            [9, 23, 36, 60, 86, 115, 150, 195, 255, 349, 522, 709, 1448],
            [43, 82, 107, 144, 185, 231, 287, 356, 449, 585, 812, 1042, 1707],
            [53, 84, 106, 141, 174, 207, 245, 291, 350, 445, 623, 825, 1379],
        ]
    )
    / 1e6
)
BANNER_CTR = 0.0007

PRICE_QUANTILES = MARKET_PRICE.mean(axis=0)
"""Market price of the mean campaign at `LEVELS`, fen per thousand impressions."""

LOG_PCTR = (np.log(PCTR) - np.log(PCTR[:, 6:7])).mean(axis=0)
"""Log of the pCTR quantiles at `LEVELS` over the median, mean of the campaigns."""

PCTR_UPPER = float(np.exp(LOG_PCTR[10]))
"""q90 / q50 of pCTR."""

PCTR_LOWER = float(np.exp(-LOG_PCTR[2]))
"""q50 / q10 of pCTR."""
