package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
)

// demoTimeout bounds a demonstration that hangs; a good one takes about a second.
const demoTimeout = 60 * time.Second

const demoDetail = `    Starts a server of its own on a free loopback port and plays one whole sign-in over HTTP: a
    PC that shows a QR code, and a phone that signs in, reads the pixels of that code, shows who
    asks, and approves with the number on the PC's screen. Nothing is left behind.`

func demoVerb() verb {
	return verb{
		name:    "demo",
		summary: "plays one whole QR sign-in by itself, step by step",
		detail:  demoDetail,
		prepare: func(flags *flag.FlagSet) action {
			asJSON := flags.Bool("json", false, "print one JSON object and nothing else on standard output")
			return func(ctx context.Context, e env) error { return runDemo(ctx, e, *asJSON) }
		},
	}
}

// demoResult is what `demo --json` prints.
type demoResult struct {
	Steps     []demoStep     `json:"steps"`
	Claims    map[string]any `json:"id_token_claims"`
	TokenType string         `json:"token_type"`
	GrantType string         `json:"grant_type"`
	ElapsedMS int64          `json:"elapsed_ms"`
}

// demoStep is one of the fourteen steps.
type demoStep struct {
	Step     int           `json:"step"`
	Actor    string        `json:"actor"`
	Text     string        `json:"text"`
	Requests []demoRequest `json:"requests,omitempty"`
}

// demoRequest is one request that belongs to a step.
type demoRequest struct {
	Method string `json:"method"`
	Path   string `json:"path"`
	// Status is the answer's; a held request has none yet.
	Status int  `json:"status,omitempty"`
	Held   bool `json:"held,omitempty"`
}

func runDemo(ctx context.Context, e env, asJSON bool) (err error) {
	started := time.Now()
	running, seeded, err := openSeeded(ctx, seeding{addr: "127.0.0.1:0", logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, seeded.remove()) }()
	serving, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- running.serve(serving) }()
	defer func() {
		stop()
		err = errors.Join(err, <-ended)
	}()
	tell := func(demoStep) {}
	if !asJSON {
		fmt.Fprintf(e.Stdout, "A whole QR sign-in at %s, over HTTP.\n\n", running.issuer)
		tell = func(s demoStep) { printStep(e, s) }
	}
	playing, stopPlaying := context.WithTimeout(ctx, demoTimeout)
	defer stopPlaying()
	story := newStory(running.issuer, seeded.password, tell)
	if err := story.play(playing); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("the demonstration did not finish within %s", demoTimeout)
		}
		return err
	}
	story.result.ElapsedMS = time.Since(started).Milliseconds()
	if asJSON {
		return printJSON(e.Stdout, story.result)
	}
	fmt.Fprintln(e.Stdout, "\nClaims of the ID token, verified against the server's published keys:")
	printClaims(e.Stdout, story.result.Claims)
	fmt.Fprintf(e.Stdout, "\nDone in %s. To play it yourself: %s dev\n", time.Since(started).Round(time.Millisecond), e.Command)
	return nil
}

func printStep(e env, s demoStep) {
	fmt.Fprintf(e.Stdout, "%2d  %-6s  %s", s.Step, s.Actor, printable(s.Text))
	for i, r := range s.Requests {
		sign := "  · "
		if i > 0 {
			sign = ", "
		}
		answered := "held open"
		if !r.Held {
			answered = fmt.Sprint(r.Status)
		}
		fmt.Fprintf(e.Stdout, "%s%s %s %s", sign, r.Method, r.Path, answered)
	}
	fmt.Fprintln(e.Stdout)
}

// wire collects what went over one device's wire since it was last asked.
type wire struct {
	mu   sync.Mutex
	seen []demoRequest
	// polling gets a value when a request to the token endpoint goes out.
	polling chan struct{}
}

func (w *wire) client() *http.Client {
	return &http.Client{Timeout: requestTimeout, Transport: &player.Recorder{Sent: w.sent, Answered: w.answered}}
}

func (w *wire) sent(x player.Exchange) {
	if x.Path == "/token" {
		select {
		case w.polling <- struct{}{}:
		default:
		}
	}
}

func (w *wire) answered(x player.Exchange) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, demoRequest{Method: x.Method, Path: x.Path, Status: x.Status})
}

// take returns what was seen, without the fetching of metadata, which is no step.
func (w *wire) take() []demoRequest {
	w.mu.Lock()
	defer w.mu.Unlock()
	var kept []demoRequest
	for _, r := range w.seen {
		if r.Path != "/.well-known/openid-configuration" && r.Path != "/.well-known/qr-configuration" {
			kept = append(kept, r)
		}
	}
	w.seen = nil
	return kept
}
