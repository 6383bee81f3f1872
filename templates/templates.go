// Package templates holds the pages and the style sheet of the provider as files. It is only
// files: no names of its own, nothing to call. provider.Config.Templates overrides
// any of them by name.
package templates

import "embed"

// Files holds the pages (*.html, html/template syntax), style.css and the scripts (*.js), all
// of which the pages work without. Every page defines "title" and "content"; layout.html puts
// them together, qr.html is the QR code on a page, and client.html what stands beside a client's
// name. static/qrgrant.js is a module for the pages of relying parties too. The texts of a
// language are one file, en.json or zh.json, which a template asks for with {{t "id"}}; what a
// language lacks is English.
//
//go:embed *.html *.js *.json style.css static
var Files embed.FS
