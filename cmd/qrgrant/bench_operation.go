package main

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/load"
)

const (
	// benchPreparers is how many callers prepare what a timed part uses up.
	benchPreparers = 32
	// benchStock bounds what is prepared for one timed part.
	benchStock = 60_000
)

// prepareAttempt brings a new attempt to where an operation begins.
type prepareAttempt func(c *load.Conn, n int) (*load.Attempt, error)

// benchOperation is one line of the table.
type benchOperation struct {
	name  string
	rs256 bool
	// prepare is what the timed part uses up; nil when it begins with nothing.
	prepare func(f *load.Flow) prepareAttempt
	// do is the operation on the n-th attempt.
	do func(f *load.Flow, c *load.Conn, a *load.Attempt, n int) error
	// lanes says that it takes two connections: do is not used.
	lanes bool
}

// benchOperations are all, in the order of a sign-in.
func benchOperations() []benchOperation {
	opened := func(f *load.Flow) prepareAttempt { return f.Open }
	login := func(f *load.Flow, c *load.Conn, _ *load.Attempt, n int) error {
		_, err := f.Login(c, n)
		return err
	}
	return []benchOperation{
		{name: "open", do: func(f *load.Flow, c *load.Conn, _ *load.Attempt, n int) error {
			_, err := f.Open(c, n)
			return err
		}},
		// The first poll of an attempt is never early, so the interval is enforced and not felt.
		{name: "poll", prepare: opened, do: func(f *load.Flow, c *load.Conn, a *load.Attempt, _ int) error {
			return f.FirstPoll(c, a, false)
		}},
		{name: "long_poll", prepare: opened, lanes: true},
		{name: "scan", prepare: opened, do: func(f *load.Flow, c *load.Conn, a *load.Attempt, _ int) error {
			return f.Scan(c, a)
		}},
		{
			name: "decision", prepare: func(f *load.Flow) prepareAttempt { return f.Scanned },
			do: func(f *load.Flow, c *load.Conn, a *load.Attempt, _ int) error { return f.Approve(c, a) },
		},
		{
			name: "redeem", prepare: func(f *load.Flow) prepareAttempt { return f.Ready },
			do: func(f *load.Flow, c *load.Conn, a *load.Attempt, _ int) error {
				_, err := f.Redeem(c, a)
				return err
			},
		},
		{name: "login_es256", do: login},
		{name: "login_rs256", rs256: true, do: login},
	}
}

// operations times every operation at every number of callers.
func (b *bench) operations(ctx context.Context) error {
	for _, o := range benchOperations() {
		if !b.flags.wants(o.name) || o.rs256 && !b.flags.self && b.flags.rs256ClientID == "" {
			continue
		}
		if err := b.operation(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) operation(ctx context.Context, o benchOperation) (err error) {
	subject, err := b.source.fresh(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, subject.stop()) }()
	preparers, err := load.NewCrew(ctx, subject.target.Address, benchPreparers)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, preparers.Close()) }()
	if err := b.check(ctx, subject, o, preparers); err != nil {
		return err
	}
	for _, callers := range b.flags.callers {
		b.say("%s, callers: %d", o.name, callers)
		t := &timing{bench: b, subject: subject, operation: o, callers: callers, preparers: preparers, flow: subject.es}
		if o.rs256 {
			t.flow = subject.rs
		}
		row, err := t.run(ctx)
		if err != nil {
			return err
		}
		b.report.Operations = append(b.report.Operations, row)
	}
	return nil
}

// check plays one sign-in and tries to poll too fast, so that it is known what is measured.
func (b *bench) check(ctx context.Context, subject *benchSubject, o benchOperation, crew *load.Crew) error {
	flow, alg := subject.es, "ES256"
	if o.rs256 {
		flow, alg = subject.rs, "RS256"
	}
	_, err := crew.Run(ctx, load.Limit{Count: 1}, load.Timed(func(c *load.Conn, n int) error {
		idToken, err := flow.Login(c, n)
		if err == nil {
			err = signedWith(idToken, alg)
		}
		if err == nil && o.name == "poll" {
			err = flow.SlowDown(c)
		}
		return err
	}))
	return err
}

// timing is one operation at one number of callers.
type timing struct {
	bench     *bench
	subject   *benchSubject
	operation benchOperation
	callers   int
	flow      *load.Flow
	preparers *load.Crew
	missed    int
}

// roundSamples is what the rounds of one side measured.
type roundSamples struct {
	all   load.Sample
	rates []float64
	cpu   time.Duration
}

func (r *roundSamples) add(s load.Sample, cpu time.Duration) {
	r.all.Latencies = append(r.all.Latencies, s.Latencies...)
	r.all.Elapsed += s.Elapsed
	r.rates = append(r.rates, s.PerSecond())
	r.cpu += cpu
}

// perOperation is the processor time of one operation in microseconds.
func (r *roundSamples) perOperation() float64 {
	return float64(r.cpu.Microseconds()) / float64(max(len(r.all.Latencies), 1))
}

func (t *timing) run(ctx context.Context) (row operationReport, err error) {
	crew, err := load.NewCrew(ctx, t.subject.target.Address, t.callers)
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, crew.Close()) }()
	yardstick, err := load.NewCrew(ctx, t.bench.bare.target.Address, t.callers)
	if err != nil {
		return row, err
	}
	defer func() { err = errors.Join(err, yardstick.Close()) }()
	// A first turn that does not count warms both and tells how much to prepare.
	length := t.bench.flags.slice()
	warm, _, err := t.slice(ctx, crew, load.Limit{Duration: min(length/2, 250*time.Millisecond), Count: 100 + 20*t.callers})
	if err != nil {
		return row, err
	}
	if _, _, err := t.yard(ctx, yardstick, min(length/2, 250*time.Millisecond)); err != nil {
		return row, err
	}
	rate := warm.PerSecond()
	var bare, own roundSamples
	for range t.bench.flags.rounds {
		sample, cpu, err := t.yard(ctx, yardstick, length)
		if err != nil {
			return row, err
		}
		bare.add(sample, cpu)
		stock := min(int(1.3*rate*length.Seconds())+2*t.callers, benchStock)
		if sample, cpu, err = t.slice(ctx, crew, load.Limit{Duration: length, Count: stock}); err != nil {
			return row, err
		}
		own.add(sample, cpu)
		rate = max(rate, sample.PerSecond())
	}
	return t.row(&own, &bare), nil
}

// yard times the bare handler.
func (t *timing) yard(ctx context.Context, crew *load.Crew, length time.Duration) (load.Sample, time.Duration, error) {
	return measured(t.bench.bare.pid(), func() (load.Sample, error) {
		return crew.Run(ctx, load.Limit{Duration: length}, load.BareStep(t.bench.bare.target))
	})
}

// slice prepares what limit.Count operations need and times them.
func (t *timing) slice(ctx context.Context, crew *load.Crew, limit load.Limit) (load.Sample, time.Duration, error) {
	if err := t.subject.keepSignedIn(ctx); err != nil {
		return load.Sample{}, 0, err
	}
	o := t.operation
	if o.prepare == nil {
		return measured(t.subject.pid, func() (load.Sample, error) {
			return crew.Run(ctx, load.Limit{Duration: limit.Duration}, load.Timed(func(c *load.Conn, n int) error {
				return o.do(t.flow, c, nil, n)
			}))
		})
	}
	count := limit.Count
	if o.lanes {
		count += load.LaneStock(crew.Len())
	}
	stock, err := prepare(ctx, t.preparers, count, o.prepare(t.flow))
	if err != nil {
		return load.Sample{}, 0, err
	}
	if o.lanes {
		return t.laneSlice(ctx, crew, limit, stock)
	}
	return measured(t.subject.pid, func() (load.Sample, error) {
		return crew.Run(ctx, limit, load.Timed(func(c *load.Conn, n int) error { return o.do(t.flow, c, stock[n], n) }))
	})
}

// laneSlice times long polls, whose PCs have connections of their own.
func (t *timing) laneSlice(ctx context.Context, crew *load.Crew, limit load.Limit, stock []*load.Attempt) (sample load.Sample, cpu time.Duration, err error) {
	lanes, err := load.NewLanes(ctx, t.subject.target, crew, t.flow, stock)
	if err != nil {
		return load.Sample{}, 0, err
	}
	defer func() { err = errors.Join(err, lanes.Close()) }()
	sample, cpu, err = measured(t.subject.pid, func() (load.Sample, error) { return crew.Run(ctx, limit, lanes.Step) })
	t.missed += lanes.Missed()
	return sample, cpu, err
}

// prepare makes count attempts, which nobody times.
func prepare(ctx context.Context, crew *load.Crew, count int, one prepareAttempt) ([]*load.Attempt, error) {
	stock := make([]*load.Attempt, count)
	_, err := crew.Run(ctx, load.Limit{Count: count}, load.Timed(func(c *load.Conn, n int) (err error) {
		stock[n], err = one(c, n)
		return err
	}))
	return stock, err
}

// measured runs something and returns the processor time that the process used meanwhile.
func measured(pid int, run func() (load.Sample, error)) (load.Sample, time.Duration, error) {
	if pid == 0 {
		sample, err := run()
		return sample, 0, err
	}
	before, err := load.CPUTime(pid)
	if err != nil {
		return load.Sample{}, 0, err
	}
	sample, err := run()
	if err != nil {
		return load.Sample{}, 0, err
	}
	after, err := load.CPUTime(pid)
	return sample, after - before, err
}

func (t *timing) row(own, bare *roundSamples) operationReport {
	var ratios []float64
	for i := range own.rates {
		ratios = append(ratios, own.rates[i]/bare.rates[i])
	}
	row := operationReport{
		Operation: t.operation.name, Callers: t.callers, Count: len(own.all.Latencies), NotHeld: t.missed,
		PerSecond: load.Median(own.rates), BarePerSecond: load.Median(bare.rates),
		Ratio: load.Median(ratios), RatioMin: slices.Min(ratios), RatioMax: slices.Max(ratios),
		P50: milliseconds(own.all.Quantile(0.5)), P99: milliseconds(own.all.Quantile(0.99)),
	}
	if t.subject.pid != 0 {
		row.CPU, row.BareCPU = own.perOperation(), bare.perOperation()
		row.CPURatio = row.CPU / max(row.BareCPU, 0.001)
	}
	return row
}
