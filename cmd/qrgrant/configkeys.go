package main

import (
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// oddKey is the line of the first key that is no text, such as 0 or true; zero when there is none.
// Beside one, the decoder takes every key that it does not know.
func oddKey(source []byte) int {
	file, err := parser.ParseBytes(source, 0)
	if err != nil {
		return 0
	}
	finder := &oddKeys{}
	for _, doc := range file.Docs {
		if doc.Body != nil {
			ast.Walk(finder, doc.Body)
		}
	}
	return finder.line
}

// oddKeys finds the first key that is no text.
type oddKeys struct{ line int }

// Visit implements ast.Visitor.
func (o *oddKeys) Visit(node ast.Node) ast.Visitor {
	pair, ok := node.(*ast.MappingValueNode)
	if !ok {
		return o
	}
	switch pair.Key.(type) {
	case *ast.StringNode, *ast.MergeKeyNode:
	default:
		if o.line == 0 {
			o.line = pair.Key.GetToken().Position.Line
		}
	}
	return o
}
