package main_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	lean "github.com/qrgrant/qrgrant/cmd/qrgrant/internal/load"
	"github.com/qrgrant/qrgrant/cmd/qrgrant/internal/player"
	"github.com/qrgrant/qrgrant/provider"
	"github.com/qrgrant/qrgrant/provider/qr"
	"github.com/qrgrant/qrgrant/storage"
	"github.com/qrgrant/qrgrant/storage/bolt"
)

// benchObject is the shape of `bench --json`.
type benchObject struct {
	Machine struct {
		System string `json:"system"`
		CPU    string `json:"cpu"`
		CPUs   int    `json:"cpus"`
		Go     string `json:"go"`
		Disk   string `json:"disk"`
	} `json:"machine"`
	Rounds     int                `json:"rounds"`
	Duration   float64            `json:"duration_ms"`
	Start      map[string]any     `json:"start"`
	Operations []map[string]any   `json:"operations"`
	Pending    map[string]float64 `json:"pending"`
	Waiting    map[string]float64 `json:"waiting"`
	Streams    map[string]float64 `json:"streams"`
}

// It measures everything once and looks at what was measured, never at how fast it was.
func TestBenchMeasuresEverything(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p, err := start(dir, []string{"PATH=" + os.Getenv("PATH"), "TMPDIR=" + dir},
		"bench", "--self", "--quick", "--json", "--callers", "1,2", "--waiting", "5", "--sessions", "50")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.stop)
	if code, err := p.exit(); err != nil || code != 0 {
		text, _ := p.out.look()
		t.Fatalf("exit code %d, %v:\n%s", code, err, text)
	}
	decoder := json.NewDecoder(strings.NewReader(string(p.out.stdoutOnly())))
	decoder.DisallowUnknownFields()
	var got benchObject
	if err := decoder.Decode(&got); err != nil || decoder.More() {
		t.Fatalf("not one object of the known shape: %v", err)
	}
	if got.Machine.CPUs < 1 || got.Machine.System == "" || got.Machine.Go == "" || got.Rounds != 2 || got.Duration <= 0 {
		t.Errorf("%+v", got)
	}
	var measured []string
	for _, o := range got.Operations {
		measured = append(measured, o["operation"].(string)+" "+[]string{"", "1", "2"}[int(o["callers"].(float64))])
		for _, figure := range []string{"count", "per_second", "bare_per_second", "ratio", "ratio_min", "ratio_max", "p50_ms", "p99_ms"} {
			if n, _ := o[figure].(float64); n <= 0 {
				t.Errorf("%s: %s is %v", o["operation"], figure, o[figure])
			}
		}
	}
	want := []string{}
	for _, name := range []string{"open", "poll", "long_poll", "scan", "decision", "redeem", "login_es256", "login_rs256"} {
		want = append(want, name+" 1", name+" 2")
	}
	if !slices.Equal(measured, want) {
		t.Errorf("measured %q, want %q", measured, want)
	}
	if got.Waiting["polls"] != 5 || got.Waiting["approvals"] != 2 || got.Waiting["p99_ms"] <= 0 {
		t.Errorf("waiting: %v", got.Waiting)
	}
	if got.Streams["streams"] != 5 || len(got.Streams) != 3 {
		t.Errorf("streams: %v", got.Streams)
	}
	if n, _ := got.Start["cold_ms"].(float64); n <= 0 || got.Pending["sessions"] != 50 {
		t.Errorf("start: %v, pending: %v", got.Start, got.Pending)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// A bench that is killed closes the other end of its servers' standard input.
func TestMeasuredServersEndWithTheirStandardInput(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	config := filepath.Join(dir, "empty.yaml")
	if err := os.WriteFile(config, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, args := range map[string][]string{
		"bare":   {"bench-bare"},
		"server": {"bench-server", "--db", filepath.Join(dir, "bench.db"), "--config", config},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := start(dir, nil, args...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.stop)
			if _, err := p.await(`127\.0\.0\.1:\d+`); err != nil {
				t.Fatal(err)
			}
			if err := p.stdin.Close(); err != nil {
				t.Fatal(err)
			}
			if code, err := p.exit(); err != nil || code != 0 {
				t.Errorf("exit code %d, %v", code, err)
			}
		})
	}
}

// BenchmarkServer compares three requests with a bare handler, in one process and over real
// connections. `qrgrant bench` separates the processes and measures more.
func BenchmarkServer(b *testing.B) {
	bare := newBenchServer(b, lean.BareHandler())
	b.Run("bare", func(b *testing.B) { bare.repeat(b, lean.BareStep(bare.target)) })
	server, flow := benchProvider(b)
	b.Run("open", func(b *testing.B) {
		server.repeat(b, lean.Timed(func(c *lean.Conn, n int) error {
			_, err := flow.Open(c, n)
			return err
		}))
	})
	b.Run("poll", func(b *testing.B) {
		attempts := make([]*lean.Attempt, b.N)
		server.repeat(b, lean.Timed(func(c *lean.Conn, n int) (err error) {
			attempts[n], err = flow.Open(c, n)
			return err
		}))
		b.ResetTimer()
		server.repeat(b, lean.Timed(func(c *lean.Conn, n int) error { return flow.FirstPoll(c, attempts[n], false) }))
	})
	b.Run("login", func(b *testing.B) {
		server.repeat(b, lean.Timed(func(c *lean.Conn, n int) error {
			_, err := flow.Login(c, n)
			return err
		}))
	})
}

// benchServer is a listening handler with callers that are connected to it.
type benchServer struct {
	url    string
	target lean.Target
	crew   *lean.Crew
}

func newBenchServer(b *testing.B, handler http.Handler) *benchServer {
	b.Helper()
	const callers = 32
	listening := httptest.NewServer(handler)
	b.Cleanup(listening.Close)
	target, err := lean.NewTarget(listening.URL)
	if err != nil {
		b.Fatal(err)
	}
	crew, err := lean.NewCrew(b.Context(), target.Address, callers)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = crew.Close() })
	return &benchServer{url: listening.URL, target: target, crew: crew}
}

// repeat does b.N steps.
func (s *benchServer) repeat(b *testing.B, step lean.Step) {
	b.Helper()
	b.ReportAllocs()
	if _, err := s.crew.Run(b.Context(), lean.Limit{Count: b.N}, step); err != nil {
		b.Fatal(err)
	}
}

// benchProvider is a provider on a database file, and the flow of a client and a person of it.
func benchProvider(b *testing.B) (*benchServer, *lean.Flow) {
	b.Helper()
	store, err := bolt.Open(filepath.Join(b.TempDir(), "bench.db"), bolt.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close() })
	const redirect = "http://127.0.0.1/callback"
	for _, client := range []*storage.Client{
		{
			ID: "bench", Name: "Bench", GrantTypes: []string{qr.GrantType}, Scopes: []string{"openid", "profile"},
			QR: storage.QRPolicy{Enabled: true, AllowedScopes: []string{"openid", "profile"}},
		},
		{
			ID: "phone", Name: "Phone", GrantTypes: []string{"authorization_code"}, RedirectURIs: []string{redirect},
			Scopes: []string{"openid", qr.ApproveScope}, FirstParty: true, Approver: true,
		},
	} {
		if err := store.PutClient(b.Context(), client); err != nil {
			b.Fatal(err)
		}
	}
	password := b.Name()
	hash, err := provider.HashPassword(password)
	if err != nil {
		b.Fatal(err)
	}
	if err := store.PutUser(b.Context(), &storage.User{Subject: "alice", Login: "alice", PasswordHash: hash}); err != nil {
		b.Fatal(err)
	}
	// The issuer is known once somebody listens.
	var handler http.Handler
	server := newBenchServer(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	const many = 1 << 30
	own, err := provider.New(b.Context(), provider.Config{
		Issuer: server.url, Store: store,
		QRLimits: qr.Limits{OpensPerMinute: many, OpenSessions: many, Scans: many},
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = own.Close() })
	handler = own
	phone := &player.Approver{
		Issuer: server.url, ClientID: "phone", RedirectURI: redirect,
		Login: "alice", Password: password, HTTP: http.DefaultClient,
	}
	if err := phone.SignIn(b.Context()); err != nil {
		b.Fatal(err)
	}
	return server, lean.NewFlow(server.target, "bench", []string{phone.AccessToken()})
}
