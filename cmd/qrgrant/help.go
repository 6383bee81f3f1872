package main

import (
	"flag"
	"fmt"
	"io"
	"strings"
)

const helpHead = `qrgrant is an OAuth 2.0 and OpenID Connect provider with a QR sign-in.

Usage: qrgrant VERB [flags]

Begin with qrgrant demo, which plays one whole sign-in by itself, or with qrgrant dev, a server
to try things on. qrgrant help VERB shows one verb in detail.

`

const helpTail = `Exit codes

  0    done
  1    failed; the line on stderr says what to do
  2    the command line or the configuration is wrong
  3    denied: by the person, or because who or what asked may not
  4    expired: nobody approved in time, or the code is too old
  5    the server could not be reached
  130  interrupted
`

// help prints the whole help text, or that of the verb named in args.
func help(out io.Writer, args []string) error {
	if len(args) == 0 {
		overview(out)
		return nil
	}
	v, rest, ok := findVerb(args)
	switch {
	case !ok:
		return usagef("there is no %q; see qrgrant help", strings.Join(args, " "))
	case len(rest) > 0:
		return usagef("say one verb: qrgrant help VERB")
	}
	describe(out, v)
	if v.detail != "" {
		fmt.Fprintf(out, "%s\n\n", v.detail)
	}
	fmt.Fprint(out, helpTail)
	return nil
}

// overview prints every verb on a line of its own, then each with its flags.
func overview(out io.Writer) {
	var shown []verb
	for _, v := range verbs() {
		if v.summary != "" {
			shown = append(shown, v)
		}
	}
	fmt.Fprint(out, helpHead, "Verbs\n\n")
	for _, v := range shown {
		fmt.Fprintf(out, "  %-22s %s\n", v.usage(), v.summary)
	}
	fmt.Fprint(out, "\n", helpTail, "\nVerbs and their flags\n\n")
	for _, v := range shown {
		describe(out, v)
	}
}

// usage is the verb and the arguments it takes.
func (v verb) usage() string { return strings.Join(append([]string{v.name}, v.args...), " ") }

// describe prints a verb's summary and its flags.
func describe(out io.Writer, v verb) {
	flags := flag.NewFlagSet(v.name, flag.ContinueOnError)
	v.prepare(flags)
	fmt.Fprintf(out, "qrgrant %s\n    %s\n", v.usage(), v.summary)
	flags.VisitAll(func(f *flag.Flag) {
		kind, usage := flag.UnquoteUsage(f)
		head := "--" + f.Name
		if kind != "" {
			head += " " + kind
		}
		if f.DefValue != "" && f.DefValue != "false" {
			usage += " (default " + f.DefValue + ")"
		}
		fmt.Fprintf(out, "      %-24s %s\n", head, strings.ReplaceAll(usage, "\n", "\n"+strings.Repeat(" ", 31)))
	})
	fmt.Fprintln(out)
}
