package main

import (
	"context"
	"flag"
	"fmt"
	"runtime"
	"runtime/debug"
)

func versionVerb() verb {
	return verb{
		name:    "version",
		summary: "the version of this program",
		prepare: func(*flag.FlagSet) action {
			return func(_ context.Context, e env) error {
				info, _ := debug.ReadBuildInfo()
				fmt.Fprintln(e.Stdout, versionLine(info))
				return nil
			}
		},
	}
}

// versionLine says in one line what the program was built from. info may be nil: a build can
// leave it out.
func versionLine(info *debug.BuildInfo) string {
	line := "qrgrant "
	switch {
	case info == nil || info.Main.Version == "" || info.Main.Version == "(devel)":
		line += "without a version"
	default:
		line += info.Main.Version
	}
	if info != nil {
		settings := map[string]string{}
		for _, s := range info.Settings {
			settings[s.Key] = s.Value
		}
		if revision := settings["vcs.revision"]; revision != "" {
			line += fmt.Sprintf(", revision %.12s", revision)
		}
		if settings["vcs.modified"] == "true" {
			line += " with changes"
		}
	}
	return line + ", " + runtime.Version()
}
