package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"text/tabwriter"
)

// benchReport is what `bench --json` prints. Figures that could not be measured are absent.
type benchReport struct {
	Machine    machineReport     `json:"machine"`
	Rounds     int               `json:"rounds"`
	Duration   float64           `json:"duration_ms"`
	Start      *startReport      `json:"start,omitempty"`
	Operations []operationReport `json:"operations"`
	Pending    *pendingReport    `json:"pending,omitempty"`
	Waiting    *waitingReport    `json:"waiting,omitempty"`
	Streams    *streamsReport    `json:"streams,omitempty"`
}

// streamsReport: the memory of streams that wait for a decision.
type streamsReport struct {
	Streams      int     `json:"streams"`
	PerEvents    float64 `json:"bytes_per_event_stream"`
	PerWebSocket float64 `json:"bytes_per_websocket"`
}

type machineReport struct {
	System string `json:"system"`
	CPU    string `json:"cpu,omitempty"`
	CPUs   int    `json:"cpus"`
	Go     string `json:"go"`
	// Disk is the type of the file system the database is on.
	Disk string `json:"disk,omitempty"`
}

// operationReport is one operation at one number of callers. Times are in milliseconds,
// processor times in microseconds; ratios are to the bare handler in the same rounds.
type operationReport struct {
	Operation     string  `json:"operation"`
	Callers       int     `json:"callers"`
	Count         int     `json:"count"`
	PerSecond     float64 `json:"per_second"`
	BarePerSecond float64 `json:"bare_per_second"`
	Ratio         float64 `json:"ratio"`
	RatioMin      float64 `json:"ratio_min"`
	RatioMax      float64 `json:"ratio_max"`
	P50           float64 `json:"p50_ms"`
	P99           float64 `json:"p99_ms"`
	CPU           float64 `json:"cpu_us,omitempty"`
	BareCPU       float64 `json:"bare_cpu_us,omitempty"`
	CPURatio      float64 `json:"cpu_ratio,omitempty"`
	// NotHeld is how many long polls the scan overtook.
	NotHeld int `json:"not_held,omitempty"`
}

// startReport: cold starts from the execution to the first 200, with the keys in the
// database, and the memory of a server that has done nothing more.
type startReport struct {
	Cold       float64 `json:"cold_ms"`
	BareCold   float64 `json:"bare_cold_ms"`
	Ratio      float64 `json:"ratio"`
	Memory     int64   `json:"memory_bytes"`
	BareMemory int64   `json:"bare_memory_bytes"`
	Binary     int64   `json:"binary_bytes"`
	Stripped   bool    `json:"binary_stripped"`
}

// pendingReport: the memory of sessions that wait for a scan.
type pendingReport struct {
	Sessions   int     `json:"sessions"`
	PerSession float64 `json:"bytes_per_session"`
	Memory     int64   `json:"memory_bytes"`
}

// waitingReport: PCs in held polls, and the time from the moment a phone sends its approval to
// the moment the PC has its tokens.
type waitingReport struct {
	Polls     int     `json:"polls"`
	PerPoll   float64 `json:"bytes_per_poll,omitempty"`
	Approvals int     `json:"approvals"`
	PerSecond float64 `json:"approvals_per_second"`
	P50       float64 `json:"p50_ms"`
	P95       float64 `json:"p95_ms"`
	P99       float64 `json:"p99_ms"`
	Max       float64 `json:"max_ms"`
}

// describe notes where and how long it was measured.
func (r *benchReport) describe(f *benchFlags, dir string) {
	r.Rounds, r.Duration, r.Operations = f.rounds, milliseconds(f.duration), []operationReport{}
	r.Machine = machineReport{
		System: runtime.GOOS + "/" + runtime.GOARCH, CPU: processorName(), CPUs: runtime.NumCPU(),
		Go: runtime.Version(), Disk: fileSystem(dir),
	}
}

// processorName is what Linux says of the processor.
func processorName() string {
	raw, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// fileSystem is the type of the file system that dir is on. On one in memory fsync is free,
// which whoever reads the figures must know.
func fileSystem(dir string) string {
	raw, err := os.ReadFile("/proc/mounts")
	resolved, errLinks := filepath.EvalSymlinks(dir)
	if err != nil || errLinks != nil || dir == "" {
		return ""
	}
	longest, kind := -1, ""
	for line := range strings.Lines(string(raw)) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		at := fields[1]
		if len(at) >= longest && (resolved == at || strings.HasPrefix(resolved, strings.TrimSuffix(at, "/")+"/")) {
			longest, kind = len(at), fields[2]
		}
	}
	return kind
}

func (r *benchReport) json(out io.Writer) error {
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(r)
}

func (r *benchReport) table(out io.Writer) error {
	m := r.Machine
	fmt.Fprintf(out, "%s, %d CPUs, %s, %s", m.System, m.CPUs, m.CPU, m.Go)
	if m.Disk != "" {
		fmt.Fprintf(out, ", database on %s", m.Disk)
	}
	fmt.Fprint(out, "\n\n")
	if len(r.Operations) == 0 {
		r.standing(out)
		return nil
	}
	fmt.Fprintf(out, "%d rounds in turns with a bare net/http handler; a ratio is to that handler\n\n", r.Rounds)
	rows := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(rows, "operation\tcallers\t/s\tbare/s\tratio\t(min-max)\tp50 ms\tp99 ms\tCPU us\tx bare\t")
	for _, o := range r.Operations {
		fmt.Fprintf(rows, "%s\t%d\t%.0f\t%.0f\t%.3f\t(%.3f-%.3f)\t%.2f\t%.2f\t", o.Operation, o.Callers, o.PerSecond,
			o.BarePerSecond, o.Ratio, o.RatioMin, o.RatioMax, o.P50, o.P99)
		if o.CPU > 0 {
			fmt.Fprintf(rows, "%.1f\t%.2f\t", o.CPU, o.CPURatio)
		} else {
			fmt.Fprint(rows, "\t\t")
		}
		fmt.Fprintln(rows)
	}
	if err := rows.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(out)
	r.standing(out)
	return nil
}

// standing prints what is no operation.
func (r *benchReport) standing(out io.Writer) {
	const mib = 1 << 20
	if p := r.Pending; p != nil {
		fmt.Fprintf(out, "a pending session   %.0f bytes (slope up to %d sessions, %.0f MiB in all)\n", p.PerSession, p.Sessions, float64(p.Memory)/mib)
	}
	if w := r.Waiting; w != nil {
		if w.PerPoll > 0 {
			fmt.Fprintf(out, "a waiting long poll %.0f bytes (%d waiting)\n", w.PerPoll, w.Polls)
		}
		fmt.Fprintf(out, "approval to tokens  p50 %.2f ms, p95 %.2f ms, p99 %.2f ms, longest %.2f ms (%d approvals at %.0f/s, %d waiting)\n",
			w.P50, w.P95, w.P99, w.Max, w.Approvals, w.PerSecond, w.Polls)
	}
	if s := r.Streams; s != nil {
		fmt.Fprintf(out, "a waiting stream    %.0f bytes over SSE, %.0f bytes over WebSocket (%d of each)\n", s.PerEvents, s.PerWebSocket, s.Streams)
	}
	if s := r.Start; s != nil {
		fmt.Fprintf(out, "cold start          %.1f ms to the first 200 (bare %.1f ms, ratio %.2f)\n", s.Cold, s.BareCold, s.Ratio)
		stripped := ""
		if s.Stripped {
			stripped = ", stripped"
		}
		fmt.Fprintf(out, "after the start     %.1f MiB in memory (bare %.1f MiB); the program has %.1f MB%s\n",
			float64(s.Memory)/mib, float64(s.BareMemory)/mib, float64(s.Binary)/1e6, stripped)
	}
}
