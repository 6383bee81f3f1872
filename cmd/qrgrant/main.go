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
	"slices"
	"strings"
	"syscall"
)

// env is everything a verb may touch of the process it runs in.
type env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Getenv reads an environment variable, "" when it is not set.
	Getenv func(string) string
	// Args are the arguments of the verb, as many as it takes.
	Args []string
	// Command is how the person calls this program, for the lines that say what to type.
	Command string
}

// verb is one subcommand.
type verb struct {
	// name is one word, or two: a noun and what to do with it.
	name string
	// args names the arguments that follow the flags, such as "LOGIN"; each must be given.
	args []string
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
		hashPasswordVerb(), initialTokenVerb(), clientKeyVerb(),
		configCheckVerb(),
		userAddVerb(), userPasswdVerb(), userListVerb(), userDisableVerb(),
		clientAddVerb(), clientListVerb(), clientDisableVerb(), clientRemoveVerb(),
		benchVerb(), benchServerVerb(), benchBareVerb(),
		versionVerb(),
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
	case "--version", "-version":
		args = append([]string{"version"}, args[1:]...)
	}
	v, rest, ok := findVerb(args)
	if !ok {
		fmt.Fprintf(e.Stderr, "qrgrant: there is no %q; see qrgrant help\n", strings.Join(args[:min(2, len(args))], " "))
		return exitUsage
	}
	return complain(e, v.name, v.call(ctx, rest, e))
}

// findVerb finds the verb that args begin with, and what follows it.
func findVerb(args []string) (v verb, rest []string, ok bool) {
	for _, v := range verbs() {
		words := strings.Fields(v.name)
		if len(args) >= len(words) && slices.Equal(args[:len(words)], words) {
			return v, args[len(words):], true
		}
	}
	return verb{}, nil, false
}

// call parses the flags and runs the verb.
func (v verb) call(ctx context.Context, args []string, e env) error {
	flags := flag.NewFlagSet(v.name, flag.ContinueOnError)
	// The package's own messages run over many lines; ours are one line each.
	flags.SetOutput(io.Discard)
	act := v.prepare(flags)
	given, err := parse(flags, args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return help(e.Stdout, strings.Fields(v.name))
	case err != nil:
		return flagFault(flags, err)
	case len(given) > len(v.args):
		return usagef("unexpected argument %q; see qrgrant help %s", given[len(v.args)], v.name)
	case len(given) < len(v.args):
		return usagef("%s is missing; see qrgrant help %s", v.args[len(given)], v.name)
	}
	e.Args = given
	return act(ctx, e)
}

// parse reads flags wherever they stand and returns the arguments between them; after "--"
// everything is an argument.
func parse(flags *flag.FlagSet, args []string) (given []string, err error) {
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		rest := flags.Args()
		if len(rest) < len(args) && args[len(args)-len(rest)-1] == "--" {
			return append(given, rest...), nil
		}
		if len(rest) == 0 {
			break
		}
		given, args = append(given, rest[0]), rest[1:]
	}
	return given, nil
}
