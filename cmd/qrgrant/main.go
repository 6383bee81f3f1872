// Command qrgrant is an OAuth 2.0 and OpenID Connect provider whose special feature is the QR
// grant, together with a terminal PC and a terminal phone to try it. `qrgrant help` documents
// every verb, its flags and the exit codes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// env is everything a verb may touch of the process it runs in.
type env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Getenv reads an environment variable, "" when it is not set.
	Getenv func(string) string
	// Command is how the person calls this program, for the lines that say what to type.
	Command string
}

// verb is one subcommand.
type verb struct {
	name string
	// summary is one line of the help text; a verb without one is not for people.
	summary string
	// detail is shown by `qrgrant help NAME`, below the summary.
	detail string
	// prepare declares the flags and returns what runs once they are parsed.
	prepare func(flags *flag.FlagSet) action
}

// action is the body of a verb. Its error decides the exit code (failure.go).
type action func(ctx context.Context, e env) error

// verbs is the dispatch table, in the order of the help text.
func verbs() []verb {
	return []verb{
		demoVerb(),
		devVerb(),
		serveVerb(),
		loginVerb(),
		phoneVerb(),
		hashPasswordVerb(),
		benchVerb(), benchServerVerb(), benchBareVerb(),
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for an orderly end; the second one is the system's own and kills.
	context.AfterFunc(ctx, stop)
	e := env{Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, Getenv: os.Getenv, Command: os.Args[0]}
	if strings.Contains(os.Args[0], "go-build") {
		e.Command = "go run ./cmd/qrgrant"
	}
	os.Exit(run(ctx, os.Args[1:], e))
}

// run executes one command line and returns its exit code.
func run(ctx context.Context, args []string, e env) int {
	if len(args) == 0 {
		fmt.Fprintln(e.Stderr, "qrgrant: say what to do, for example: qrgrant demo; see qrgrant help")
		return exitUsage
	}
	switch args[0] {
	case "help", "--help", "-help", "-h":
		return complain(e, "help", help(e.Stdout, args[1:]))
	}
	for _, v := range verbs() {
		if v.name == args[0] {
			return complain(e, v.name, v.call(ctx, args[1:], e))
		}
	}
	fmt.Fprintf(e.Stderr, "qrgrant: there is no %q; see qrgrant help\n", args[0])
	return exitUsage
}

// call parses the flags and runs the verb.
func (v verb) call(ctx context.Context, args []string, e env) error {
	flags := flag.NewFlagSet(v.name, flag.ContinueOnError)
	// The package's own messages run over many lines; ours are one line each.
	flags.SetOutput(io.Discard)
	act := v.prepare(flags)
	err := flags.Parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return help(e.Stdout, []string{v.name})
	case err != nil:
		return usagef("%v; see qrgrant help %s", err, v.name)
	case flags.NArg() > 0:
		return usagef("unexpected argument %q; see qrgrant help %s", flags.Arg(0), v.name)
	}
	return act(ctx, e)
}
