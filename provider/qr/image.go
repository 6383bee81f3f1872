package qr

import (
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"

	qrcode "github.com/skip2/go-qrcode"
)

// The picture formats a consumption device can ask for with qr_image.
const (
	ImageSVG = "svg"
	ImagePNG = "png"
)

// pngModule is the edge of one module in pixels: 8 keeps the smallest code above 240 pixels.
const pngModule = 8

// modules draws the code as rows of dark (true) and light, quiet zone included.
func modules(payload string) (*qrcode.QRCode, error) {
	code, err := qrcode.New(payload, qrcode.Medium)
	if err != nil {
		return nil, fmt.Errorf("qr: encode: %w", err)
	}
	return code, nil
}

// PNG draws the payload as dark modules on white, eight pixels a module.
func PNG(payload string) ([]byte, error) {
	code, err := modules(payload)
	if err != nil {
		return nil, err
	}
	png, err := code.PNG(-pngModule)
	if err != nil {
		return nil, fmt.Errorf("qr: draw PNG: %w", err)
	}
	return png, nil
}

// SVG draws the payload as one path on a white tile; it scales to any size.
func SVG(payload string) ([]byte, error) {
	code, err := modules(payload)
	if err != nil {
		return nil, err
	}
	rows := code.Bitmap()
	var b strings.Builder
	size := strconv.Itoa(len(rows))
	b.WriteString(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ` + size + ` ` + size +
		`" shape-rendering="crispEdges"><path fill="#fff" d="M0 0h` + size + `v` + size + `H0z"/><path fill="#000" d="`)
	for y, row := range rows {
		for x := 0; x < len(row); {
			run := x
			for run < len(row) && row[run] {
				run++
			}
			if run > x {
				fmt.Fprintf(&b, "M%d %dh%dv1h-%dz", x, y, run-x, run-x)
			}
			x = run + 1
		}
	}
	b.WriteString(`"/></svg>`)
	return []byte(b.String()), nil
}

// Terminal draws the payload with half blocks, two modules a character, dark on light. It
// sets black on white itself, so that a dark terminal shows a code that cameras read.
func Terminal(payload string) (string, error) {
	const paper, reset = "\x1b[30;107m", "\x1b[0m"
	code, err := modules(payload)
	if err != nil {
		return "", err
	}
	rows := code.Bitmap()
	var b strings.Builder
	for y := 0; y < len(rows); y += 2 {
		b.WriteString(paper)
		for x, upper := range rows[y] {
			lower := y+1 < len(rows) && rows[y+1][x]
			b.WriteString(halfBlock(upper, lower))
		}
		b.WriteString(reset + "\n")
	}
	return b.String(), nil
}

func halfBlock(upper, lower bool) string {
	switch {
	case upper && lower:
		return "█"
	case upper:
		return "▀"
	case lower:
		return "▄"
	}
	return " "
}

// dataURI draws the payload in the format asked for at the start; no format, no image.
func dataURI(format, payload string) (string, error) {
	var (
		picture []byte
		err     error
		kind    string
	)
	switch format {
	case ImageSVG:
		kind = "image/svg+xml"
		picture, err = SVG(payload)
	case ImagePNG:
		kind = "image/png"
		picture, err = PNG(payload)
	default:
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return "data:" + kind + ";base64," + base64.StdEncoding.EncodeToString(picture), nil
}
