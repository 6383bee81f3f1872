// Package qr is the QR grant.
package qr
