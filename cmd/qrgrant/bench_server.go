package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"runtime/pprof"
	"time"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/load"
	"github.com/qrgrant/qrgrant/provider/qr"
)

// benchProfile names the environment variable with the file that a measured server writes its
// processor profile to.
const benchProfile = "QRGRANT_BENCH_PROFILE"

// benchServerVerb is the server that bench measures: serve, but for the limits of protocol §9,
// which would end a measurement after a few requests. It is not for anything else and stands in no help
// text: it lives as long as its standard input is open.
func benchServerVerb() verb {
	return verb{
		name: "bench-server",
		prepare: func(flags *flag.FlagSet) action {
			db := flags.String("db", "", "database `FILE`")
			config := flags.String("config", "", "configuration `FILE`")
			return func(ctx context.Context, e env) error { return runBenchServer(ctx, e, *db, *config) }
		},
	}
}

func runBenchServer(ctx context.Context, e env, db, config string) (err error) {
	file, err := readConfig(config, e.Getenv)
	if err != nil {
		return err
	}
	running, err := openServer(ctx, serverSettings{
		addr: "127.0.0.1:0", db: db, config: file, getenv: e.Getenv, limits: benchLimits(),
		logger: slog.New(slog.NewTextHandler(e.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	ctx, stop := whileOpen(ctx, e.Stdin)
	defer stop()
	if name := e.Getenv(benchProfile); name != "" {
		profiled, err := profile(ctx, name)
		if err != nil {
			return errors.Join(err, running.store.Close(), running.listener.Close())
		}
		defer func() {
			stop()
			err = errors.Join(err, <-profiled)
		}()
	}
	fmt.Fprintln(e.Stdout, running.listener.Addr())
	return running.serve(ctx)
}

// benchLimits lets one address and a few people do what otherwise a whole town does.
func benchLimits() qr.Limits {
	const many = math.MaxInt32
	return qr.Limits{OpensPerMinute: many, OpenSessions: many, Scans: many, HeldPolls: many, HeldPollsPerClient: many}
}

// benchBareVerb is the bare net/http handler that everything is compared with. It lives as
// long as its standard input is open.
func benchBareVerb() verb {
	return verb{
		name:    "bench-bare",
		prepare: func(*flag.FlagSet) action { return runBenchBare },
	}
}

func runBenchBare(ctx context.Context, e env) error {
	listener, err := listen(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := whileOpen(ctx, e.Stdin)
	defer stop()
	// No other time limits: each is work, and the yardstick is net/http at its fastest.
	server := &http.Server{Handler: load.BareHandler(), ReadHeaderTimeout: readHeaderTimeout}
	closing := context.AfterFunc(ctx, func() { _ = server.Close() }) // Serve tells
	defer closing()
	fmt.Fprintln(e.Stdout, listener.Addr())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve: %w", err)
	}
	return nil
}

// whileOpen ends the context when there is nothing more to read from in: whoever started this
// process has closed it, or is no more.
func whileOpen(ctx context.Context, in io.Reader) (context.Context, context.CancelFunc) {
	ctx, stop := context.WithCancel(ctx)
	go func() {
		defer stop()
		_, _ = io.Copy(io.Discard, in) // an error is an end too
	}()
	return ctx, stop
}

// profile writes a processor profile from now to the end of ctx: what the end itself costs is
// not in it. The channel tells when it is written.
func profile(ctx context.Context, name string) (<-chan error, error) {
	file, err := os.Create(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", benchProfile, err)
	}
	if err := pprof.StartCPUProfile(file); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", benchProfile, err), file.Close())
	}
	written := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		pprof.StopCPUProfile()
		written <- file.Close()
	})
	return written, nil
}

// benchPatience bounds every wait for a child.
const benchPatience = 20 * time.Second
