package main

import (
	"context"
	"flag"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

func configCheckVerb() verb {
	return verb{
		name: "config check", args: []string{"FILE"},
		summary: "reads a configuration as serve would and says what is wrong with it",
		prepare: func(*flag.FlagSet) action {
			return func(_ context.Context, e env) error {
				config, err := readConfig(e.Args[0], e.Getenv)
				if err != nil {
					return err
				}
				fmt.Fprintf(e.Stdout, "%s: %s and %s, nothing wrong\n", e.Args[0], counted(len(config.Clients), "client"), counted(len(config.Users), "user"))
				return nil
			}
		},
	}
}

// counted puts a number before what it counts.
func counted(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// nearestKey suggests the key that a misspelt one was meant to be; empty when none is near.
func nearestKey(source []byte, at *token.Token) string {
	file, err := parser.ParseBytes(source, 0)
	if err != nil || at == nil {
		return ""
	}
	finder := &keyFinder{at: at}
	for _, doc := range file.Docs {
		ast.Walk(finder, doc.Body)
	}
	best, distance := "", 4
	for _, key := range knownKeys(finder.path) {
		if d := editDistance(at.Value, key); d < distance && d < len(key) {
			best, distance = key, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// keyFinder finds the path of the key at a token.
type keyFinder struct {
	at   *token.Token
	path string
}

// Visit implements ast.Visitor.
func (f *keyFinder) Visit(node ast.Node) ast.Visitor {
	if pair, ok := node.(*ast.MappingValueNode); ok {
		if key := pair.Key.GetToken(); key.Position.Offset == f.at.Position.Offset {
			f.path = pair.Key.GetPath()
		}
	}
	return f
}

// knownKeys lists the keys that may stand where path does; those of the top level when the
// path is not known.
func knownKeys(path string) []string {
	at := reflect.TypeFor[configFile]()
	parts := strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' || r == '$' })
	for _, part := range parts[:max(0, len(parts)-1)] {
		for at.Kind() == reflect.Slice {
			at = at.Elem()
		}
		if at.Kind() != reflect.Struct {
			return nil
		}
		for field := range at.Fields() {
			if field.Tag.Get("yaml") == part {
				at = field.Type
				break
			}
		}
	}
	for at.Kind() == reflect.Slice {
		at = at.Elem()
	}
	if at.Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for field := range at.Fields() {
		keys = append(keys, field.Tag.Get("yaml"))
	}
	return keys
}

// editDistance is the number of letters to insert, remove or replace (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = slices.Min([]int{change, row[j] + 1, row[j+1] + 1})
		}
	}
	return row[len(b)]
}
