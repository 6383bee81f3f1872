// Package provider is an OAuth 2.0 authorization server and OpenID provider over HTTP. Its
// special feature is the QR grant of package qr; everything around it is here.
package provider
