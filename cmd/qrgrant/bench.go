package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/load"
)

const benchDetail = `    Every operation is timed in turns with a bare net/http handler that parses a form and
    answers 200 bytes of JSON: read the ratios, since the absolute figures are this machine's
    of this minute. A whole sign-in is open, scan, poll, decision and redeem, and counts as one.
    Latencies of a long poll are from the phone's scan to the PC's answer. CPU is what the
    server process uses for one operation.

    --self starts the server, with fsync and its limits raised, in a process of its own on a
    temporary database. --addr measures a running one, which must not limit one address or
    person to less than the load: the limits of a production server end the run.`

// What is measured beside the operations.
const (
	benchStart   = "start"
	benchPending = "pending"
	benchWaiting = "waiting"
	benchStreams = "streams"
)

// The bounds of the flags: this is a measurement, not an attack.
const (
	maxBenchCallers  = 1024
	maxBenchRounds   = 50
	maxBenchSlice    = 5 * time.Second
	maxBenchWaiting  = 20_000
	maxBenchSessions = 500_000
)

// benchFlags is the command line of `qrgrant bench`.
type benchFlags struct {
	self, json, quick                    bool
	addr, clientID, rs256ClientID, phone string
	user, passwordFile, dir, only        string
	pid, rounds, waiting, sessions       int
	// start is the number of cold starts, people that of the persons who approve, with --self.
	start, people int
	duration      time.Duration
	callers       counts
}

// counts is a flag of numbers with commas between them.
type counts []int

// String implements flag.Value.
func (c *counts) String() string {
	texts := make([]string, 0, len(*c))
	for _, n := range *c {
		texts = append(texts, strconv.Itoa(n))
	}
	return strings.Join(texts, ",")
}

// Set implements flag.Value.
func (c *counts) Set(text string) error {
	*c = nil
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 1 || n > maxBenchCallers {
			return fmt.Errorf("%q is not a number of callers from 1 to %d", part, maxBenchCallers)
		}
		*c = append(*c, n)
	}
	return nil
}

func benchVerb() verb {
	return verb{
		name:    "bench",
		summary: "measure a server beside a bare net/http handler",
		detail:  benchDetail,
		prepare: func(flags *flag.FlagSet) action {
			f := benchFlags{callers: counts{1, 32, 128}, start: 9, people: 4}
			flags.BoolVar(&f.self, "self", false, "start the server to measure")
			flags.StringVar(&f.addr, "addr", "", "issuer `URL` of a running server to measure, on this machine")
			flags.IntVar(&f.pid, "pid", 0, "process `NUMBER` of that server, for its processor time and memory")
			flags.StringVar(&f.clientID, "client-id", "cli", "`ID` of a public client of the QR grant, with --addr")
			flags.StringVar(&f.rs256ClientID, "rs256-client-id", "", "`ID` of one whose ID tokens are RS256, with --addr")
			flags.StringVar(&f.phone, "phone-client-id", "phone", "`ID` of the approver client, with --addr")
			flags.StringVar(&f.user, "user", "", "`NAME` of the person who approves, with --addr")
			flags.StringVar(&f.passwordFile, "password-file", "", "`FILE` with the person's password, with --addr")
			flags.BoolVar(&f.json, "json", false, "print one JSON object instead of a table")
			flags.BoolVar(&f.quick, "quick", false, "a look at everything in a few seconds; the figures mean little")
			flags.Var(&f.callers, "callers", "`NUMBERS` of callers, with commas")
			flags.DurationVar(&f.duration, "duration", 2*time.Second, "`TIME` an operation is timed at each number of callers, over all rounds")
			flags.IntVar(&f.rounds, "rounds", 3, "`NUMBER` of turns with the bare handler")
			flags.IntVar(&f.waiting, "waiting", 5000, "`NUMBER` of PCs that wait in long polls, and in streams of each kind; 0 leaves that out")
			flags.IntVar(&f.sessions, "sessions", 50_000, "`NUMBER` of pending sessions to weigh; 0 leaves that out")
			flags.StringVar(&f.only, "only", "", "`NAMES` of what to measure, with commas (default everything)")
			flags.StringVar(&f.dir, "dir", "", "`DIRECTORY` on the disk to measure, with --self (default the temporary one)")
			return func(ctx context.Context, e env) error {
				if f.quick {
					f.hurry(flags)
				}
				return f.run(ctx, e)
			}
		},
	}
}

func (f *benchFlags) run(ctx context.Context, e env) (err error) {
	if err := f.fault(); err != nil {
		return err
	}
	b := &bench{flags: f, progress: e.Stderr}
	if f.json {
		b.progress = io.Discard
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if err := b.measure(ctx); err != nil {
		return benchFailure(err)
	}
	if f.json {
		return b.report.json(e.Stdout)
	}
	return b.report.table(e.Stdout)
}

// hurry makes everything that the command line does not set as short as it can be and still
// happen.
func (f *benchFlags) hurry(flags *flag.FlagSet) {
	given := map[string]bool{}
	flags.Visit(func(set *flag.Flag) { given[set.Name] = true })
	quick := benchFlags{callers: counts{1, 8}, duration: 60 * time.Millisecond, rounds: 2, waiting: 100, sessions: 1000}
	f.start, f.people = 2, 1
	if !given["callers"] {
		f.callers = quick.callers
	}
	if !given["duration"] {
		f.duration = quick.duration
	}
	if !given["rounds"] {
		f.rounds = quick.rounds
	}
	if !given["waiting"] {
		f.waiting = quick.waiting
	}
	if !given["sessions"] {
		f.sessions = quick.sessions
	}
}

func (f *benchFlags) fault() error {
	switch {
	case f.self == (f.addr != ""):
		return usagef("say --self to start a server, or --addr URL to measure a running one")
	case !f.self && (f.user == "" || f.passwordFile == ""):
		return usagef("--addr needs --user and --password-file of a person who approves")
	case f.rounds < 1 || f.rounds > maxBenchRounds:
		return usagef("--rounds is %d; it must be from 1 to %d", f.rounds, maxBenchRounds)
	case f.slice() <= 0 || f.slice() > maxBenchSlice:
		return usagef("--duration is %s; it must be more than 0s and at most %s, %s for each round", f.duration, maxBenchSlice*time.Duration(f.rounds), maxBenchSlice)
	case f.waiting < 0 || f.waiting > maxBenchWaiting:
		return usagef("--waiting is %d; it must be from 0 to %d", f.waiting, maxBenchWaiting)
	case f.sessions < 0 || f.sessions > maxBenchSessions:
		return usagef("--sessions is %d; it must be from 0 to %d", f.sessions, maxBenchSessions)
	}
	known := []string{benchStart, benchPending, benchWaiting, benchStreams}
	for _, o := range benchOperations() {
		known = append(known, o.name)
	}
	for name := range strings.SplitSeq(f.only, ",") {
		if name != "" && !slices.Contains(known, name) {
			return usagef("--only knows no %q, but %s", name, strings.Join(known, ", "))
		}
	}
	return nil
}

// slice is how long one operation is timed in one round.
func (f *benchFlags) slice() time.Duration { return f.duration / time.Duration(f.rounds) }

// wants reports whether that is to be measured.
func (f *benchFlags) wants(name string) bool {
	return f.only == "" || slices.Contains(strings.Split(f.only, ","), name)
}

// settle is how long a server is left alone before its memory is read.
func (f *benchFlags) settle() time.Duration {
	if f.quick {
		return 100 * time.Millisecond
	}
	return time.Second
}

// benchFailure says what to do about an answer that ends the run.
func benchFailure(err error) error {
	var answer *load.UnexpectedError
	if errors.As(err, &answer) && answer.Status == 429 {
		return fmt.Errorf("%w; its limits are lower than this load, measure with --self instead", err)
	}
	return err
}

// bench is one run. Its subjects, the servers that are measured, come and go; the bare handler
// stays.
type bench struct {
	flags    *benchFlags
	progress io.Writer
	report   benchReport
	bare     *benchChild
	source   *benchSource
}

func (b *bench) measure(ctx context.Context) (err error) {
	if b.source, err = newBenchSource(ctx, b.flags); err != nil {
		return err
	}
	if b.bare, err = startChild(ctx, "bench-bare"); err != nil {
		return err
	}
	b.report.describe(b.flags, b.source.dir)
	for _, step := range []func(context.Context) error{b.starts, b.operations, b.pending, b.waiting, b.streams} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// close ends what still runs and removes what was written.
func (b *bench) close() error {
	var err error
	if b.bare != nil {
		err = b.bare.stop()
	}
	if b.source != nil {
		err = errors.Join(err, b.source.remove())
	}
	return err
}

func (b *bench) say(format string, args ...any) { fmt.Fprintf(b.progress, format+"\n", args...) }
