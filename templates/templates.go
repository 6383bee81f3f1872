// Package templates holds the pages and the style sheet of the provider as files. It is only
// files: no script, no names of its own, nothing to call. provider.Config.Templates overrides
// any of them by name.
package templates

import "embed"

// Files holds the pages (*.html, html/template syntax) and style.css. Every page defines
// "title" and "content"; layout.html puts them together.
//
//go:embed *.html style.css
var Files embed.FS
