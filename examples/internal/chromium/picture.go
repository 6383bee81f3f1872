package chromium

import (
	"bytes"
	"context"
	"image"
	"image/png"
	"os"
	"path/filepath"
	"strings"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"
)

// Screenshot returns the whole page as PNG, as far as it can be scrolled. Where
// QRGRANT_SCREENSHOTS is set it is also left there, under the names of the test and of the
// picture.
func (p *Page) Screenshot(name string) []byte {
	p.tb.Helper()
	size := Eval[rectangle](p, `({ x: 0, y: 0, width: document.documentElement.clientWidth, height: document.documentElement.scrollHeight })`)
	picture := p.capture(&page.Viewport{Width: size.Width, Height: max(size.Height, 1), Scale: 1}, true)
	if dir := os.Getenv("QRGRANT_SCREENSHOTS"); dir != "" {
		file := strings.ReplaceAll(p.tb.Name()+"-"+name, "/", "-") + ".png"
		if err := os.WriteFile(filepath.Join(dir, file), picture, 0o600); err != nil { //nolint:gosec // G703: the directory that whoever runs the tests names
			p.tb.Fatal(err)
		}
	}
	return picture
}

// capture photographs a part of the page; nil is the viewport.
func (p *Page) capture(clip *page.Viewport, beyond bool) []byte {
	p.tb.Helper()
	var picture []byte
	p.do("screenshot", chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		shot, err := cdp.Call(ctx, t, page.CaptureScreenshot, page.CaptureScreenshotParams{Clip: clip, CaptureBeyondViewport: &beyond})
		picture = shot.Data
		return err
	}))
	return picture
}

// DecodeQR returns what a QR code on the screen says, read from a photograph of an element and
// what surrounds it, or of the viewport when the selector is empty. It waits until there is one.
func (p *Page) DecodeQR(selector string) string {
	p.tb.Helper()
	text := ""
	p.until("a QR code in "+selector, func() (err error) {
		var clip *page.Viewport
		if selector != "" {
			// A camera sees more than the code; what surrounds it belongs to the test.
			const margin = 24
			box := p.box(selector)
			x, y := max(box.X-margin, 0), max(box.Y-margin, 0)
			scrolled := Eval[rectangle](p, "({ x: scrollX, y: scrollY })")
			clip = &page.Viewport{X: scrolled.X + x, Y: scrolled.Y + y, Width: box.Width + 2*margin, Height: box.Height + 2*margin, Scale: 1}
		}
		text, err = ReadQR(p.capture(clip, false))
		return err
	})
	return text
}

// ReadQR returns what the QR code on a PNG says.
func ReadQR(picture []byte) (string, error) {
	drawn, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		return "", err
	}
	return readQR(drawn)
}

// readQR tries two ways to tell dark from light, at two sizes: a phone sees many pictures of a
// code in a second, and the decoder misses one now and then.
func readQR(drawn image.Image) (text string, err error) {
	for _, picture := range []image.Image{drawn, halved(drawn)} {
		source := gozxing.NewLuminanceSourceFromImage(picture)
		for _, binarizer := range []gozxing.Binarizer{gozxing.NewHybridBinarizer(source), gozxing.NewGlobalHistgramBinarizer(source)} {
			if text, err = decode(binarizer); err == nil {
				return text, nil
			}
		}
	}
	return "", err
}

func decode(binarizer gozxing.Binarizer) (string, error) {
	bitmap, err := gozxing.NewBinaryBitmap(binarizer)
	if err != nil {
		return "", err
	}
	read, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{gozxing.DecodeHintType_TRY_HARDER: true})
	if err != nil {
		return "", err
	}
	return read.GetText(), nil
}

// halved takes every second pixel of every second row.
func halved(drawn image.Image) image.Image {
	from := drawn.Bounds()
	small := image.NewGray(image.Rect(0, 0, from.Dx()/2, from.Dy()/2))
	for y := range small.Rect.Dy() {
		for x := range small.Rect.Dx() {
			small.Set(x, y, drawn.At(from.Min.X+2*x, from.Min.Y+2*y))
		}
	}
	return small
}
