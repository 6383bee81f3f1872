package load

import (
	"slices"
	"time"
)

// Sample is what a run measured.
type Sample struct {
	// Elapsed is from the start to the end of the last operation.
	Elapsed   time.Duration
	Latencies []time.Duration
}

// PerSecond is the rate of operations; zero for an empty sample.
func (s Sample) PerSecond() float64 {
	if s.Elapsed <= 0 {
		return 0
	}
	return float64(len(s.Latencies)) / s.Elapsed.Seconds()
}

// Quantile is the smallest latency that at least the share q of all does not exceed; zero for
// an empty sample. It sorts.
func (s Sample) Quantile(q float64) time.Duration {
	if len(s.Latencies) == 0 {
		return 0
	}
	slices.Sort(s.Latencies)
	rank := int(q*float64(len(s.Latencies))+0.999999) - 1
	return s.Latencies[min(max(rank, 0), len(s.Latencies)-1)]
}

// Median of the values, the mean of the middle two when their number is even; zero for none.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
