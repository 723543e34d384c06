"""The kernels of ``job.yaml``: plain functions over one region, compiled when the job runs."""

import hyperslab as hs


@hs.kernel
def mean_over_time(t, mean):
    """Mean over the first axis; the plan gives every task all times of its part of the grid."""
    for j in range(t.shape[1]):
        for k in range(t.shape[2]):
            total = 0.0
            for i in range(t.shape[0]):
                total += t[i, j, k]
            mean[j, k] = total / t.shape[0]


@hs.kernel
def anomaly(t, mean, out):
    """Difference from the mean."""
    for i in range(t.shape[0]):
        for j in range(t.shape[1]):
            for k in range(t.shape[2]):
                out[i, j, k] = t[i, j, k] - mean[j, k]


@hs.kernel
def smooth(t, out):
    """Mean of 3 by 3 cells; the halo gives one cell more on each side."""
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                total = 0.0
                for dj in range(3):
                    for dk in range(3):
                        total += t[i, j + dj, k + dk]
                out[i, j, k] = total / 9.0


@hs.kernel
def histogram(values, edges, counts):
    """Count values between edges of equal distance; what lies outside is not counted."""
    first, last = edges[0], edges[-1]
    scale = counts.shape[0] / (last - first)
    for i in range(values.shape[0]):
        for j in range(values.shape[1]):
            for k in range(values.shape[2]):
                bin = int((values[i, j, k] - first) * scale)
                if first <= values[i, j, k] < last:
                    counts[min(bin, counts.shape[0] - 1)] += 1
