// Package templates holds the pages and the style sheet of the provider as files. It is only
// files: no names of its own, nothing to call. provider.Config.Templates overrides
// any of them by name.
package templates

import "embed"

// Files holds the pages (*.html, html/template syntax), style.css and the scripts (*.js), all
// of which the pages work without. Every page defines "title" and "content"; layout.html puts
// them together.
//
//go:embed *.html *.js style.css
var Files embed.FS
