package main

import (
	"flag"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// flagFault words what package flag found wrong with a command line; it has no types to ask.
func flagFault(flags *flag.FlagSet, err error) error {
	text := err.Error()
	if name, ok := strings.CutPrefix(text, "flag provided but not defined: -"); ok {
		return usagef("unknown flag --%s; qrgrant %s -h lists them", name, flags.Name())
	}
	if name, ok := strings.CutPrefix(text, "flag needs an argument: -"); ok {
		return usagef("--%s needs a value after it: --%s %s; see qrgrant help %s", name, name, flagKind(flags.Lookup(name)), flags.Name())
	}
	if syntax, ok := strings.CutPrefix(text, "bad flag syntax: "); ok {
		return usagef("%q is no flag; see qrgrant help %s", syntax, flags.Name())
	}
	wrong := regexp.MustCompile(`^invalid (?:boolean )?value ("(?:[^"\\]|\\.)*") for (?:flag )?-([^:]+): (.*)$`).FindStringSubmatch(text)
	if wrong == nil {
		return usagef("%s; see qrgrant help %s", text, flags.Name())
	}
	value, name := wrong[1], wrong[2]
	if given, err := strconv.Unquote(value); err == nil && given == "" {
		value = "empty"
	}
	if want := flagWant(flags.Lookup(name)); want != "" {
		return usagef("--%s is %s; it must be %s", name, value, want)
	}
	return usagef("--%s: %s", name, wrong[3])
}

// flagKind is what the help text calls the value of a flag.
func flagKind(f *flag.Flag) string {
	if f == nil {
		return "VALUE"
	}
	kind, _ := flag.UnquoteUsage(f)
	return kind
}

// flagWant says what a flag of the package's own kinds takes; empty for ours, which say so
// themselves.
func flagWant(f *flag.Flag) string {
	if f == nil {
		return ""
	}
	getter, ok := f.Value.(flag.Getter)
	if !ok {
		return ""
	}
	switch getter.Get().(type) {
	case bool:
		return "true or false, or stand alone"
	case time.Duration:
		return "a time like 2s or 500ms"
	case int, int64, uint, uint64:
		return "a whole number"
	}
	return fmt.Sprintf("a %T", getter.Get())
}
