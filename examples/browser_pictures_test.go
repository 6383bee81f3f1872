package examples_test

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/qrgrant/qrgrant/examples/internal/chromium"
	"github.com/qrgrant/qrgrant/provider/providertest"
)

// leave writes a picture of the page for the README into the directory that QRGRANT_PICTURES
// names; without it nothing is written. A picture that would weigh down every clone is refused.
func leave(t *testing.T, p *chromium.Page, name string) {
	t.Helper()
	const most = 120_000
	picture := plain(t, p.Screenshot(name))
	if len(picture) > most {
		t.Errorf("%s has %d bytes, more than %d", name, len(picture), most)
	}
	if dir := os.Getenv("QRGRANT_PICTURES"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// plain is the picture in its 256 most frequent colours. The others, at the edges of letters, are
// so near to one of these that nobody sees it, and the file is half as large.
func plain(t *testing.T, picture []byte) []byte {
	t.Helper()
	drawn, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		t.Fatal(err)
	}
	area, counts := drawn.Bounds(), map[color.Color]int{}
	for y := area.Min.Y; y < area.Max.Y; y++ {
		for x := area.Min.X; x < area.Max.X; x++ {
			counts[drawn.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int { return counts[b] - counts[a] })
	reduced := image.NewPaletted(area, colours[:min(len(colours), 256)])
	draw.Draw(reduced, area, drawn, area.Min, draw.Src)
	var out bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&out, reduced); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestBrowserPictures shows the pages that the README shows, each with what makes it worth showing.
func TestBrowserPictures(t *testing.T) {
	t.Parallel()
	t.Run("sign-in", func(t *testing.T) {
		t.Parallel()
		b := openShop(t, providertest.Options{HTTP: true}, nil)
		p := b.visit(chromium.PageOptions{Width: 1100, Height: 750})
		p.WaitVisible("#password")
		p.DecodeQR("#qr-image")
		if chromium.Eval[bool](p, `document.querySelector('#qr-image').getBoundingClientRect().left < document.querySelector('#password').getBoundingClientRect().right`) {
			t.Error("the code is not beside the form")
		}
		leave(t, p, "sign-in")
	})
	t.Run("approval", func(t *testing.T) {
		t.Parallel()
		k := openPocket(t, providertest.Options{})
		p := k.signIn(browsers.Page(t, chromium.PageOptions{Width: 390, Height: 844, Mobile: true}))
		pc := k.open("cli")
		typed(p, pc.userCode)
		p.WaitVisible("#check_code")
		p.Type("#check_code", pc.code())
		p.WaitText("Command Line")
		leave(t, p, "approval")
	})
	t.Run("linked devices", func(t *testing.T) {
		t.Parallel()
		b := openShop(t, providertest.Options{HTTP: true}, nil)
		phone := b.telephone()
		pc := b.visit(chromium.PageOptions{})
		phone.approve(pc)
		pc.Click("#qr-continue")
		b.signedIn(pc)
		p := browsers.Page(t, chromium.PageOptions{Width: 1100, Height: 750})
		p.Navigate(b.Issuer + "/account")
		b.password(p, providertest.AlicePassword)
		p.WaitVisible("#sign-ins")
		p.WaitText("Corner Shop")
		if n := chromium.Eval[int](p, `document.querySelectorAll('#sign-ins > li').length`); n < 2 {
			t.Errorf("%d sign-ins", n)
		}
		leave(t, p, "linked-devices")
	})
	t.Run("playground", func(t *testing.T) {
		t.Parallel()
		g := openGround(t, chromium.PageOptions{Width: 1440, Height: 900})
		g.scan()
		g.page.WaitVisible("#check-code")
		g.page.WaitFor(`document.querySelectorAll('#steps .done').length === 10`)
		leave(t, g.page, "playground")
	})
}
