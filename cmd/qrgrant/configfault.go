package main

import (
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// wordYAML says in the words of the file, and on which line, why the file could not be read: the
// library speaks of Go's types, and of a wrong duration it does not even know the line.
func wordYAML(source []byte, err error) (line int, what string) {
	line = 1
	var faulty yaml.Error
	if errors.As(err, &faulty) && faulty.GetToken() != nil {
		line = faulty.GetToken().Position.Line
	}
	var unknown *yaml.UnknownFieldError
	if errors.As(err, &unknown) {
		return line, unknown.GetMessage() + nearestKey(source, unknown.Token)
	}
	file, broken := parser.ParseBytes(source, 0)
	if broken != nil {
		if errors.As(broken, &faulty) && faulty.GetToken() != nil {
			return faulty.GetToken().Position.Line, wordSyntax(faulty.GetMessage())
		}
		return line, "this is not well-formed YAML"
	}
	for _, doc := range file.Docs {
		if at := misfitIn(doc.Body, reflect.TypeFor[configFile](), ""); at != nil {
			return firstLine(at.node), at.String()
		}
	}
	if faulty != nil {
		return line, wordSyntax(faulty.GetMessage())
	}
	return line, "this cannot be read"
}

// wordSyntax words what is wrong with the YAML itself.
func wordSyntax(message string) string {
	if twice := regexp.MustCompile(`^mapping key ("[^"]*") already defined at \[(\d+):`).FindStringSubmatch(message); twice != nil {
		return fmt.Sprintf("the key %s stands here twice, the first time on line %s", twice[1], twice[2])
	}
	if strings.Contains(message, "cannot start any token") {
		return "a character stands here that YAML does not allow; indent with spaces, not with tabs"
	}
	return "this is not well-formed YAML: " + message
}

// misfit is a value of another kind than its key takes.
type misfit struct {
	node ast.Node
	// what names the place; want is the Go type behind it.
	what string
	want reflect.Type
}

func (m *misfit) String() string {
	if m.what == "" {
		return "the file must begin with a key, such as clients:"
	}
	return fmt.Sprintf("%s must be %s, not %s", m.what, kindWanted(m.want), m.found())
}

// found names what stands there. Text is repeated only where no secret can be: somebody may
// have put one where its hash or the name of its variable belongs.
func (m *misfit) found() string {
	switch node := m.node.(type) {
	case *ast.MappingNode, *ast.MappingValueNode:
		return "keys with values"
	case *ast.SequenceNode:
		return "a list"
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode:
		return node.GetToken().Value
	case *ast.StringNode:
		if m.want.Kind() == reflect.Bool || m.want.Kind() == reflect.Int || m.want == reflect.TypeFor[time.Duration]() {
			return fmt.Sprintf("%.40q", node.Value)
		}
	}
	return "text"
}

func kindWanted(want reflect.Type) string {
	switch {
	case want == reflect.TypeFor[time.Duration]():
		return "a time like 240s"
	case want.Kind() == reflect.Bool:
		return "true or false"
	case want.Kind() == reflect.Int:
		return "a whole number"
	case want.Kind() == reflect.String:
		return "text"
	case want.Kind() == reflect.Slice && want.Elem().Kind() == reflect.String:
		return "a list like [one, two]"
	case want.Kind() == reflect.Slice:
		return "a list, each entry after a dash"
	}
	return "keys with values, like {key: value}"
}

// misfitIn returns the first misfit in a value, nil when there is none. What the file leaves
// empty fits everywhere, and what an alias stands for has been looked at in its place.
func misfitIn(node ast.Node, want reflect.Type, what string) *misfit {
	if want.Kind() == reflect.Pointer {
		want = want.Elem()
	}
	wrong := &misfit{node: node, what: what, want: want}
	switch node := node.(type) {
	case nil, *ast.NullNode, *ast.AliasNode, *ast.AnchorNode:
		return nil
	case *ast.TagNode:
		return misfitIn(node.Value, want, what)
	case *ast.MappingNode:
		return misfitInKeys(wrong, node.Values)
	case *ast.MappingValueNode:
		return misfitInKeys(wrong, []*ast.MappingValueNode{node})
	case *ast.SequenceNode:
		if want.Kind() != reflect.Slice {
			return wrong
		}
		for _, entry := range node.Values {
			if at := misfitIn(entry, want.Elem(), "an entry of "+what); at != nil {
				return at
			}
		}
		return nil
	case *ast.StringNode:
		if want != reflect.TypeFor[time.Duration]() {
			break
		}
		if _, err := time.ParseDuration(node.Value); err != nil {
			return wrong
		}
		return nil
	case *ast.BoolNode:
		if want.Kind() == reflect.Bool {
			return nil
		}
	case *ast.IntegerNode:
		if want.Kind() == reflect.Int {
			return nil
		}
	}
	if want.Kind() == reflect.String {
		return nil
	}
	return wrong
}

func misfitInKeys(whole *misfit, pairs []*ast.MappingValueNode) *misfit {
	switch whole.want.Kind() {
	case reflect.Map:
		return nil
	case reflect.Struct:
	default:
		return whole
	}
	for _, pair := range pairs {
		key := pair.Key.GetToken().Value
		for field := range whole.want.Fields() {
			if field.Tag.Get("yaml") != key {
				continue
			}
			if at := misfitIn(pair.Value, field.Type, key); at != nil {
				return at
			}
		}
	}
	return nil
}
