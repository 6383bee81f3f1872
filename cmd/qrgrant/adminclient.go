package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"syscall"
)

// adminFlags say which server, or which file, a verb is about.
type adminFlags struct {
	db, socket string
}

func (f *adminFlags) declare(flags *flag.FlagSet) {
	flags.StringVar(&f.db, "db", "", "database `FILE` of the server (required unless --admin-socket is given)")
	flags.StringVar(&f.socket, "admin-socket", "", "`FILE` of the admin socket (default the database's name and .sock)")
}

// adminSocketOf is where the socket of a database is, unless it was said otherwise.
func adminSocketOf(db string) string { return db + ".sock" }

// call sends one request to the server, or does it to the file when no server runs.
func (f *adminFlags) call(ctx context.Context, e env, method, path string, given, answer any) error {
	if f.db == "" && f.socket == "" {
		return usagef("say which server with --db FILE, or with --admin-socket FILE")
	}
	socket := f.socket
	if socket == "" {
		socket = adminSocketOf(f.db)
	}
	dialer := &net.Dialer{}
	connection, err := dialer.DialContext(ctx, "unix", socket)
	if err == nil {
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return connection, nil }}
		defer transport.CloseIdleConnections()
		return request(ctx, transport, method, path, given, answer)
	}
	absent := errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
	if f.db == "" || !absent {
		return fmt.Errorf("no server answers at %s: %w", socket, err)
	}
	return f.offline(ctx, e, method, path, given, answer)
}

// offline opens the database. Nothing tells it what stands in a configuration file.
func (f *adminFlags) offline(ctx context.Context, e env, method, path string, given, answer any) (err error) {
	if _, err := os.Stat(f.db); err != nil {
		return usagef("--db: %v", err)
	}
	store, err := openStore(f.db, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	fmt.Fprintln(e.Stderr, "no server runs; working on the file. What stands in a configuration file wins at the next start.")
	handler := (&admin{store: store, config: func() *configFile { return nil }, endings: storedEndings{store}, logger: slog.New(slog.DiscardHandler)}).handler()
	return request(ctx, direct{handler}, method, path, given, answer)
}

// disableVerb is a verb that switches one of what stands below path off, or on again.
func disableVerb(name, argument, summary, undoUsage, path string) verb {
	return verb{
		name: name, args: []string{argument}, summary: summary,
		prepare: func(flags *flag.FlagSet) action {
			var f adminFlags
			f.declare(flags)
			undo := flags.Bool("undo", false, undoUsage)
			return func(ctx context.Context, e env) error {
				change := struct {
					Disabled bool `json:"disabled"`
				}{!*undo}
				var changed struct {
					ID, Login string
					Disabled  bool
				}
				if err := f.call(ctx, e, http.MethodPost, path+url.PathEscape(e.Args[0])+"/disabled", change, &changed); err != nil {
					return err
				}
				fmt.Fprintf(e.Stdout, "%s is %s\n", printable(cmp.Or(changed.ID, changed.Login)), state(changed.Disabled))
				return nil
			}
		},
	}
}

// listVerb is a verb that shows what stands at path, each with show.
func listVerb[T any](name, summary, path string, prepare func(*flag.FlagSet) (show func(io.Writer, T))) verb {
	return verb{
		name: name, summary: summary,
		prepare: func(flags *flag.FlagSet) action {
			var f adminFlags
			f.declare(flags)
			show := prepare(flags)
			return func(ctx context.Context, e env) error {
				var all []T
				if err := f.call(ctx, e, http.MethodGet, path, nil, &all); err != nil {
					return err
				}
				for _, one := range all {
					show(e.Stdout, one)
				}
				return nil
			}
		},
	}
}

func state(disabled bool) string {
	if disabled {
		return "disabled"
	}
	return "enabled"
}

// request sends JSON and reads JSON.
func request(ctx context.Context, via http.RoundTripper, method, path string, given, answer any) error {
	body, err := json.Marshal(given)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://admin"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: via, Timeout: requestTimeout}).Do(req)
	if err != nil {
		return fmt.Errorf("the server did not answer: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		var refused struct{ Error string }
		if json.NewDecoder(resp.Body).Decode(&refused) != nil || refused.Error == "" {
			refused.Error = "the server answered " + resp.Status
		}
		return &adminError{resp.StatusCode, refused.Error}
	}
	return json.NewDecoder(resp.Body).Decode(answer)
}

// direct is a transport that calls the handler in this process.
type direct struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	a := &answered{header: http.Header{}, status: http.StatusOK}
	d.handler.ServeHTTP(a, r)
	return &http.Response{
		StatusCode: a.status, Status: http.StatusText(a.status), Header: a.header,
		Body: io.NopCloser(&a.body), Request: r, ProtoMajor: 1, ProtoMinor: 1,
	}, nil
}

// answered keeps what a handler answers.
type answered struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (a *answered) Header() http.Header { return a.header }

// WriteHeader implements http.ResponseWriter.
func (a *answered) WriteHeader(status int) { a.status = status }

// Write implements http.ResponseWriter.
func (a *answered) Write(p []byte) (int, error) { return a.body.Write(p) }
