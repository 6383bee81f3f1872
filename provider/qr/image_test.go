package qr_test

import (
	"bytes"
	"encoding/xml"
	"image"
	"image/color"
	"image/png"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/makiuchi-d/gozxing"
	"github.com/makiuchi-d/gozxing/qrcode"

	"github.com/qrgrant/qrgrant/provider/qr"
)

// payloadOf is a payload as long as an issuer of that many characters makes it.
func payloadOf(issuerLength int) string {
	issuer := "https://" + strings.Repeat("a", issuerLength-len("https://"))
	return issuer + "/Q#1AAAQEAYEAUDAOCAJBIFQYDIOB4ACABCDEFGHIJKLMNOP"
}

func decode(t *testing.T, picture image.Image) string {
	t.Helper()
	bitmap, err := gozxing.NewBinaryBitmapFromImage(picture)
	if err != nil {
		t.Fatal(err)
	}
	result, err := qrcode.NewQRCodeReader().Decode(bitmap, map[gozxing.DecodeHintType]any{
		gozxing.DecodeHintType_PURE_BARCODE: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return result.GetText()
}

// drawing is rows of dark modules, quiet zone included, as a picture of eight pixels a module.
type drawing [][]bool

func (d drawing) picture() image.Image {
	const edge = 8
	img := image.NewGray(image.Rect(0, 0, edge*len(d[0]), edge*len(d)))
	for y := range img.Rect.Dy() {
		for x := range img.Rect.Dx() {
			if !d[y/edge][x/edge] {
				img.SetGray(x, y, color.Gray{Y: 255})
			}
		}
	}
	return img
}

func fromTerminal(text string) drawing {
	var d drawing
	escape := regexp.MustCompile("\x1b\\[[0-9;]*m")
	for line := range strings.Lines(escape.ReplaceAllString(text, "")) {
		var upper, lower []bool
		for _, r := range strings.TrimSuffix(line, "\n") {
			upper = append(upper, r == '█' || r == '▀')
			lower = append(lower, r == '█' || r == '▄')
		}
		d = append(d, upper, lower)
	}
	return d
}

func fromSVG(t *testing.T, svg []byte) drawing {
	t.Helper()
	var document struct {
		ViewBox string `xml:"viewBox,attr"`
		Paths   []struct {
			Data string `xml:"d,attr"`
		} `xml:"path"`
	}
	if err := xml.Unmarshal(svg, &document); err != nil {
		t.Fatal(err)
	}
	size, err := strconv.Atoi(strings.Fields(document.ViewBox)[2])
	if err != nil {
		t.Fatal(err)
	}
	d := make(drawing, size)
	for y := range d {
		d[y] = make([]bool, size)
	}
	for _, run := range regexp.MustCompile(`M(\d+) (\d+)h(\d+)v1`).FindAllStringSubmatch(document.Paths[1].Data, -1) {
		x, _ := strconv.Atoi(run[1])
		y, _ := strconv.Atoi(run[2])
		length, _ := strconv.Atoi(run[3])
		for i := range length {
			d[y][x+i] = true
		}
	}
	return d
}

// Every length from 10 to 80 characters, and so every module count between them, is drawn and read.
func TestEveryPictureDecodes(t *testing.T) {
	t.Parallel()
	for length := 10; length <= 80; length++ {
		t.Run("issuer of "+strconv.Itoa(length)+" characters", func(t *testing.T) {
			t.Parallel()
			want := payloadOf(length)
			drawnPNG, err := qr.PNG(want)
			if err != nil {
				t.Fatal(err)
			}
			picture, err := png.Decode(bytes.NewReader(drawnPNG))
			if err != nil {
				t.Fatal(err)
			}
			if edge := picture.Bounds().Dx(); edge < 240 {
				t.Errorf("the PNG is %d pixels wide, want at least 240", edge)
			}
			svg, err := qr.SVG(want)
			if err != nil {
				t.Fatal(err)
			}
			terminal, err := qr.Terminal(want)
			if err != nil {
				t.Fatal(err)
			}
			for name, img := range map[string]image.Image{
				"PNG": picture, "SVG": fromSVG(t, svg).picture(), "terminal": fromTerminal(terminal).picture(),
			} {
				if got := decode(t, img); got != want {
					t.Errorf("%s says %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestQuietZoneIsFourModules(t *testing.T) {
	t.Parallel()
	svg, err := qr.SVG(payloadOf(20))
	if err != nil {
		t.Fatal(err)
	}
	d := fromSVG(t, svg)
	for i := range d {
		for j := range 4 {
			if d[i][j] || d[j][i] || d[len(d)-1-j][i] || d[i][len(d)-1-j] {
				t.Fatalf("a dark module stands in the quiet zone near %d,%d", i, j)
			}
		}
	}
	if !d[4][4] {
		t.Error("the finder pattern does not start at the fifth module")
	}
}
