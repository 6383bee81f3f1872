package main

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/load"
)

const (
	// benchInterval is how long after its first poll a PC may poll again.
	benchInterval = 5 * time.Second
	// approvalsPerSecond is the pace at which waiting PCs are approved.
	approvalsPerSecond = 500
	benchPhones        = 64
)

// starts times cold starts, in turns with those of the bare handler, and weighs both.
func (b *bench) starts(ctx context.Context) error {
	if !b.flags.self || !b.flags.wants(benchStart) {
		return nil
	}
	b.say("cold starts: %d", b.flags.start)
	var own, bare, ratios []float64
	for range b.flags.start {
		yard, err := startTime(ctx, "bench-bare")
		if err != nil {
			return err
		}
		database, err := b.source.copied()
		if err != nil {
			return err
		}
		took, err := startTime(ctx, "bench-server", "--db", database, "--config", b.source.config())
		if err != nil {
			return err
		}
		own, bare = append(own, milliseconds(took)), append(bare, milliseconds(yard))
		ratios = append(ratios, took.Seconds()/yard.Seconds())
	}
	r := &startReport{Cold: load.Median(own), BareCold: load.Median(bare), Ratio: load.Median(ratios)}
	b.report.Start = r
	var err error
	if r.Binary, r.Stripped, err = binarySize(); err != nil {
		return err
	}
	return b.idle(ctx, r)
}

// idle weighs a server that has done nothing but answer once.
func (b *bench) idle(ctx context.Context, r *startReport) (err error) {
	database, err := b.source.copied()
	if err != nil {
		return err
	}
	child, err := startChild(ctx, "bench-server", "--db", database, "--config", b.source.config())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, child.stop()) }()
	if err := errors.Join(child.ready(ctx), b.bare.ready(ctx), pauseFor(ctx, b.flags.settle())); err != nil {
		return err
	}
	if r.Memory, err = load.ResidentBytes(child.pid()); err != nil {
		return err
	}
	r.BareMemory, err = load.ResidentBytes(b.bare.pid())
	return err
}

// binarySize is the size of this program, and whether its symbols have been taken out.
func binarySize() (size int64, stripped bool, err error) {
	name, err := os.Executable()
	if err != nil {
		return 0, false, fmt.Errorf("find this program: %w", err)
	}
	info, err := os.Stat(name)
	if err != nil {
		return 0, false, fmt.Errorf("find this program: %w", err)
	}
	file, err := elf.Open(name)
	if err != nil {
		// Another system's format: only the size is told.
		return info.Size(), false, nil
	}
	return info.Size(), file.Section(".symtab") == nil, file.Close()
}

// pending weighs sessions that wait for a scan: the slope between a fifth of them and all.
func (b *bench) pending(ctx context.Context) (err error) {
	if b.flags.sessions == 0 || !b.flags.wants(benchPending) || !b.flags.self && b.flags.pid == 0 {
		return nil
	}
	b.say("pending sessions: %d", b.flags.sessions)
	subject, err := b.source.fresh(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, subject.stop()) }()
	crew, err := load.NewCrew(ctx, subject.target.Address, benchPreparers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, crew.Close()) }()
	var weights []int64
	first := max(b.flags.sessions/5, 1)
	for _, count := range []int{first, b.flags.sessions - first} {
		if _, err := prepare(ctx, crew, count, subject.es.Open); err != nil {
			return err
		}
		if err := pauseFor(ctx, b.flags.settle()); err != nil {
			return err
		}
		weight, err := load.ResidentBytes(subject.pid)
		if err != nil {
			return err
		}
		weights = append(weights, weight)
	}
	b.report.Pending = &pendingReport{
		Sessions: b.flags.sessions, Memory: weights[1],
		PerSession: float64(weights[1]-weights[0]) / float64(max(b.flags.sessions-first, 1)),
	}
	return nil
}

// waiting weighs PCs that wait in held polls, and approves some of them at a steady pace.
func (b *bench) waiting(ctx context.Context) (err error) {
	if b.flags.waiting == 0 || !b.flags.wants(benchWaiting) {
		return nil
	}
	b.say("waiting PCs: %d", b.flags.waiting)
	subject, err := b.source.fresh(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, subject.stop()) }()
	phones, err := load.NewCrew(ctx, subject.target.Address, benchPhones)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, phones.Close()) }()
	attempts, err := prepare(ctx, phones, b.flags.waiting, subject.es.Scanned)
	if err != nil {
		return err
	}
	if err := pauseFor(ctx, benchInterval); err != nil {
		return err
	}
	before, err := resident(subject.pid)
	if err != nil {
		return err
	}
	crowd, err := load.NewCrowd(ctx, subject.target, subject.es, attempts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, crowd.Close()) }()
	if err := pauseFor(ctx, b.flags.settle()); err != nil {
		return err
	}
	after, err := resident(subject.pid)
	if err != nil {
		return err
	}
	// Most PCs go on waiting while some are approved.
	count := max(b.flags.waiting*2/5, 1)
	sample, err := crowd.Approve(ctx, phones, approvalsPerSecond, count)
	if err != nil {
		return err
	}
	b.report.Waiting = &waitingReport{
		Polls: b.flags.waiting, PerPoll: float64(after-before) / float64(b.flags.waiting),
		Approvals: count, PerSecond: float64(count) / sample.Elapsed.Seconds(),
		P50: milliseconds(sample.Quantile(0.5)), P95: milliseconds(sample.Quantile(0.95)),
		P99: milliseconds(sample.Quantile(0.99)), Max: milliseconds(sample.Quantile(1)),
	}
	return nil
}

// streams weighs PCs that wait in streams, of each kind on a server of its own.
func (b *bench) streams(ctx context.Context) error {
	if b.flags.waiting == 0 || !b.flags.wants(benchStreams) || !b.flags.self && b.flags.pid == 0 {
		return nil
	}
	b.say("waiting streams: %d of each kind", b.flags.waiting)
	events, err := b.audience(ctx, load.SSE)
	if err != nil {
		return err
	}
	sockets, err := b.audience(ctx, load.WebSocket)
	if err != nil {
		return err
	}
	b.report.Streams = &streamsReport{Streams: b.flags.waiting, PerEvents: events, PerWebSocket: sockets}
	return nil
}

// audience is how many bytes a stream of that transport takes.
func (b *bench) audience(ctx context.Context, transport string) (bytes float64, err error) {
	subject, err := b.source.fresh(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, subject.stop()) }()
	phones, err := load.NewCrew(ctx, subject.target.Address, benchPhones)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, phones.Close()) }()
	attempts, err := prepare(ctx, phones, b.flags.waiting, subject.es.Scanned)
	if err != nil {
		return 0, err
	}
	if err := pauseFor(ctx, b.flags.settle()); err != nil {
		return 0, err
	}
	before, err := load.ResidentBytes(subject.pid)
	if err != nil {
		return 0, err
	}
	audience, err := load.NewAudience(ctx, subject.target, subject.es, transport, attempts)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, audience.Close()) }()
	if err := pauseFor(ctx, b.flags.settle()); err != nil {
		return 0, err
	}
	after, err := load.ResidentBytes(subject.pid)
	return float64(after-before) / float64(b.flags.waiting), err
}

// resident is the memory of the process, zero when its number is not known.
func resident(pid int) (int64, error) {
	if pid == 0 {
		return 0, nil
	}
	return load.ResidentBytes(pid)
}

func pauseFor(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
