package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// faults collects broken rules.
type faults []fault

func (f *faults) add(path, what string) { *f = append(*f, fault{path, what}) }

// when adds a fault if the rule is broken.
func (f *faults) when(broken bool, path, what string) {
	if broken {
		f.add(path, what)
	}
}

func (f *faults) tooLong(key, text string) {
	f.when(len(text) > longestName, key, fmt.Sprintf("%s must have at most %d characters", key, longestName))
}

// choice refuses what is none of the words; empty is the default.
func (f *faults) choice(path, text string, words ...string) {
	key := path[strings.LastIndex(path, ".")+1:]
	last := len(words) - 1
	f.when(text != "" && !slices.Contains(words, text), path, fmt.Sprintf("%s is %s or %s", key, strings.Join(words[:last], ", "), words[last]))
}

// twice finds what stands in a list more than once.
func (f *faults) twice(key string, list []string) {
	for i, entry := range list {
		f.when(slices.Contains(list[:i], entry), fmt.Sprintf("%s[%d]", key, i), fmt.Sprintf("%q stands here twice", entry))
	}
}

// below adds the faults of a part of the file.
func (f *faults) below(path string, found []fault) {
	for _, at := range found {
		f.add(path+"."+at.path, at.what)
	}
}

// faults lists every broken rule of a file that could be read.
func (f *configFile) faults(source []byte, getenv func(string) string) []fault {
	written := writtenIn(source)
	found := written.empty
	found = append(found, f.serverFaults(written.given)...)
	ids := map[string]bool{}
	for i := range f.Clients {
		at, c := fmt.Sprintf("$.clients[%d]", i), &f.Clients[i]
		found.below(at, c.faults(getenv, f))
		found.when(c.ID != "" && ids[c.ID], at+".id", fmt.Sprintf("client %q stands here twice", c.ID))
		ids[c.ID] = true
	}
	logins, subjects := map[string]bool{}, map[string]bool{}
	for i := range f.Users {
		at, u := fmt.Sprintf("$.users[%d]", i), &f.Users[i]
		found.below(at, u.faults(getenv))
		// A login is the same in any case.
		login := strings.ToLower(u.Login)
		found.when(login != "" && logins[login], at+".login", fmt.Sprintf("user %q stands here twice", u.Login))
		found.when(u.Subject != "" && subjects[u.Subject], at+".subject", fmt.Sprintf("subject %q is another user's already", u.Subject))
		logins[login], subjects[u.Subject] = true, true
	}
	return found
}

// written is what the decoder does not tell of a file.
type written struct {
	// given are the paths of the single values that stand in it, and of keys with values; those
	// behind aliases are left out.
	given map[string]bool
	// empty are the keys of single values that nothing follows: read as nothing, `disabled:`
	// would mean no, and a restriction would be missing.
	empty faults
}

func writtenIn(source []byte) *written {
	w := &written{given: map[string]bool{}}
	file, err := parser.ParseBytes(source, 0)
	if err != nil {
		return w
	}
	for _, doc := range file.Docs {
		w.look(doc.Body, reflect.TypeFor[configFile](), "$", "")
	}
	return w
}

func (w *written) look(node ast.Node, want reflect.Type, path, key string) {
	switch node := node.(type) {
	case *ast.AnchorNode:
		w.look(node.Value, want, path, key)
	case *ast.TagNode:
		w.look(node.Value, want, path, key)
	case *ast.MappingNode:
		w.given[path] = true
		for _, pair := range node.Values {
			w.lookAtPair(pair, want, path)
		}
	case *ast.MappingValueNode:
		w.lookAtPair(node, want, path)
	case *ast.SequenceNode:
		if want.Kind() != reflect.Slice {
			return
		}
		for i, entry := range node.Values {
			w.look(entry, want.Elem(), fmt.Sprintf("%s[%d]", path, i), "an entry of "+key)
		}
	case *ast.NullNode, nil:
		switch want.Kind() {
		case reflect.Slice, reflect.Map, reflect.Struct:
		default:
			w.empty.add(path, key+" is left empty; give it a value or take it out")
		}
	default:
		w.given[path] = true
	}
}

func (w *written) lookAtPair(pair *ast.MappingValueNode, want reflect.Type, path string) {
	if want.Kind() != reflect.Struct {
		return
	}
	key := pair.Key.GetToken().Value
	for field := range want.Fields() {
		if field.Tag.Get("yaml") == key {
			w.look(pair.Value, field.Type, path+"."+key, key)
		}
	}
}
