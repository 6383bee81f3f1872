package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	qrgrant "github.com/qrgrant/qrgrant/cmd/qrgrant"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"qrgrant": qrgrant.Main})
}

// running is the key under which a script keeps its processes by name.
type running struct{}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Values[running{}] = map[string]*process{}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"spawn":    spawn,
			"await":    await,
			"unsaid":   unsaid,
			"type":     typeLine,
			"mistype":  mistype,
			"signal":   sendSignal,
			"ended":    ended,
			"occupy":   occupy,
			"damage":   damage,
			"demojson": demoJSON,
			"json":     checkJSON,
			"oneline":  oneLine,
		},
	})
}

func processes(ts *testscript.TestScript) map[string]*process {
	return ts.Value(running{}).(map[string]*process)
}

// spawn NAME ARG… starts qrgrant in the background.
func spawn(ts *testscript.TestScript, _ bool, args []string) {
	env := []string{}
	for _, name := range []string{"PATH", "TMPDIR", "HOME", "ALICE_PASSWORD", "BOB_PASSWORD", "WEB_SECRET", "QRGRANT_KEY_SEAL"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	p, err := start(ts.MkAbs("."), env, args[1:]...)
	ts.Check(err)
	ts.Defer(p.stop)
	processes(ts)[args[0]] = p
}

// await NAME REGEXP [VARIABLE] waits for output and keeps the first group in VARIABLE.
func await(ts *testscript.TestScript, _ bool, args []string) {
	found, err := processes(ts)[args[0]].await(args[1])
	ts.Check(err)
	if len(args) == 3 {
		ts.Setenv(args[2], found)
	}
}

// unsaid NAME REGEXP checks that a process has not said something.
func unsaid(ts *testscript.TestScript, _ bool, args []string) {
	text, _ := processes(ts)[args[0]].out.look()
	if regexp.MustCompile(args[1]).MatchString(text) {
		ts.Fatalf("%s said:\n%s", args[0], text)
	}
}

// type NAME TEXT answers a question of the process.
func typeLine(ts *testscript.TestScript, _ bool, args []string) {
	_, err := fmt.Fprintln(processes(ts)[args[0]].stdin, args[1])
	ts.Check(err)
}

// mistype NAME CODE answers with another check code than CODE.
func mistype(ts *testscript.TestScript, _ bool, args []string) {
	code, err := strconv.Atoi(args[1])
	ts.Check(err)
	typeLine(ts, false, []string{args[0], strconv.Itoa(10 + (code-9)%90)})
}

// signal NAME TERM|INT|HUP sends a signal.
func sendSignal(ts *testscript.TestScript, _ bool, args []string) {
	signals := map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP}
	ts.Check(processes(ts)[args[0]].signal(signals[args[1]]))
}

// ended NAME CODE waits for the end and compares the exit code.
func ended(ts *testscript.TestScript, _ bool, args []string) {
	p := processes(ts)[args[0]]
	code, err := p.exit()
	ts.Check(err)
	if strconv.Itoa(code) != args[1] {
		text, _ := p.out.look()
		ts.Fatalf("%s ended with %d, want %s:\n%s", args[0], code, args[1], text)
	}
}

// occupy VARIABLE listens on a free loopback port for as long as the script runs.
func occupy(ts *testscript.TestScript, _ bool, args []string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { _ = listener.Close() })
	ts.Setenv(args[0], listener.Addr().String())
}

// damage FILE overwrites the middle of a database, as a failing disk would.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	file, err := os.OpenFile(ts.MkAbs(args[0]), os.O_RDWR, 0)
	ts.Check(err)
	info, err := file.Stat()
	ts.Check(err)
	// The first two pages are bbolt's own and each other's copy; the data is behind them.
	page := int64(os.Getpagesize())
	_, err = file.WriteAt(bytes.Repeat([]byte{0xA5}, int(info.Size()-2*page)), 2*page)
	ts.Check(err)
	ts.Check(file.Close())
}

// demojson FILE checks the object of `demo --json`.
func demoJSON(ts *testscript.TestScript, _ bool, args []string) {
	var result struct {
		Steps []struct {
			Step  int    `json:"step"`
			Actor string `json:"actor"`
			Text  string `json:"text"`
		} `json:"steps"`
		Claims    map[string]any `json:"id_token_claims"`
		TokenType string         `json:"token_type"`
		GrantType string         `json:"grant_type"`
		ElapsedMS int64          `json:"elapsed_ms"`
	}
	decoder := json.NewDecoder(strings.NewReader(ts.ReadFile(args[0])))
	ts.Check(decoder.Decode(&result))
	if decoder.More() {
		ts.Fatalf("there is more than one JSON value")
	}
	if len(result.Steps) != 14 {
		ts.Fatalf("%d steps, want 14", len(result.Steps))
	}
	for i, step := range result.Steps {
		if step.Step != i+1 || step.Actor == "" || step.Text == "" {
			ts.Fatalf("step %d is %+v", i+1, step)
		}
	}
	for _, claim := range []string{"iss", "sub", "aud", "exp", "iat", "nonce", "sid", "amr", "auth_time"} {
		if result.Claims[claim] == nil {
			ts.Fatalf("the ID token has no %s: %v", claim, result.Claims)
		}
	}
	if !strings.EqualFold(result.TokenType, "dpop") || result.GrantType != "urn:qrgrant:params:oauth:grant-type:qr_code" || result.ElapsedMS <= 0 {
		ts.Fatalf("token_type %q, grant_type %q, elapsed_ms %d", result.TokenType, result.GrantType, result.ElapsedMS)
	}
}

// json NAME checks that a process wrote one JSON object with id_token_claims to stdout.
func checkJSON(ts *testscript.TestScript, _ bool, args []string) {
	var result struct {
		Claims map[string]any `json:"id_token_claims"`
	}
	ts.Check(json.Unmarshal(processes(ts)[args[0]].out.stdoutOnly(), &result))
	if result.Claims["sub"] == nil {
		ts.Fatalf("no sub in %v", result.Claims)
	}
}

// oneline FILE checks that an error is one plain line.
func oneLine(ts *testscript.TestScript, _ bool, args []string) {
	text := ts.ReadFile(args[0])
	if strings.Count(text, "\n") != 1 || !strings.HasPrefix(text, "qrgrant") || strings.ContainsAny(text, "\t\x1b") {
		ts.Fatalf("not one plain line: %q", text)
	}
}
