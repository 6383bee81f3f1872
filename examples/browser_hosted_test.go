package examples_test

import (
	"strings"
	"testing"
	"time"

	"github.com/qrgrant/qrgrant/examples/internal/chromium"
	"github.com/qrgrant/qrgrant/provider/providertest"
)

// TestBrowserHosted is the whole hosted flow: relying party, sign-in page, QR code off the
// screen, phone API, check code, approval, code redirect, verified claims.
func TestBrowserHosted(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]chromium.PageOptions{
		"script":          {},
		"https":           {},
		"https no script": {NoScript: true},
		"dark":            {Dark: true},
		"Chinese":         {Language: "zh-CN", Dark: true},
		"phone size":      {Language: "zh", Width: 390, Height: 844, Scale: 2, Mobile: true},
		"small no script": {NoScript: true, Width: 390, Height: 844, Scale: 2, Mobile: true, Dark: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := openShop(t, providertest.Options{HTTP: !strings.HasPrefix(name, "https")}, nil)
			p, phone := b.visit(o), b.telephone()
			if o.NoScript {
				b.frameSoon(p)
			}
			p.WaitVisible("#qr-image")
			look(t, p, "1-pending")
			chromium.Eval[int](p, "window.mark = 7")
			scan := phone.scan(p)
			code := p.Text("#check-code")
			if !o.NoScript && chromium.Eval[int](p, "window.mark || 0") != 7 {
				t.Error("the page was loaded again, which its script should spare it")
			}
			look(t, p, "2-scanned")
			phone.decide(scan, "approve", code)
			p.WaitVisible("#qr-continue")
			look(t, p, "3-approved")
			if got := p.Text("#qr-name"); got != "Alice Arden" {
				t.Errorf("approved by %q", got)
			}
			if !o.NoScript && chromium.Eval[string](p, "document.activeElement.id") != "qr-continue" {
				t.Error("the focus is not on the question")
			}
			p.Click("#qr-continue")
			b.signedIn(p)

			// A second time nobody is asked anything.
			p.Navigate(b.app + "/login")
			b.signedIn(p)
		})
	}
}

// TestBrowserHostedEnds are the ways in which a QR code ends without a sign-in; each goes on with
// a new one.
func TestBrowserHostedEnds(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*shop, telephone, *chromium.Page) (says string){
		"denied": func(_ *shop, phone telephone, p *chromium.Page) string {
			scan := phone.scan(p)
			p.WaitVisible("#check-code")
			phone.decide(scan, "deny", "")
			return "denied or stopped"
		},
		"not me": func(_ *shop, phone telephone, p *chromium.Page) string {
			phone.approve(p)
			p.Click("#qr-not-me")
			return "denied or stopped"
		},
		"expired": func(b *shop, _ telephone, p *chromium.Page) string {
			p.WaitVisible("#qr-image")
			b.Clock.Advance(5 * time.Minute)
			return "has expired"
		},
		"given up": func(_ *shop, phone telephone, p *chromium.Page) string {
			phone.scan(p)
			p.WaitVisible("#check-code")
			return "Type this number"
		},
	} {
		for _, noScript := range []bool{false, true} {
			kind := " script"
			if noScript {
				kind = " no script"
			}
			if noScript && name == "given up" {
				continue // a button as in the others, which each wait seconds for the frame
			}
			if !noScript && name == "expired" {
				continue // the page asks for a new one by itself: TestBrowserRenewal
			}
			t.Run(name+kind, func(t *testing.T) {
				t.Parallel()
				b := openShop(t, providertest.Options{HTTP: true}, nil)
				phone, p := b.telephone(), b.visit(chromium.PageOptions{NoScript: noScript, Dark: name == "denied"})
				if noScript {
					b.frameSoon(p)
				}
				says := end(b, phone, p)
				p.WaitText(says)
				p.WaitVisible("#qr-new")
				look(t, p, "ended")
				p.Click("#qr-new")
				phone = b.telephone() // the old token may have run out with the code
				if noScript {
					phone.scan(p)
					return
				}
				phone.approve(p)
				p.Click("#qr-continue")
				b.signedIn(p)
			})
		}
	}
}

// TestBrowserFrame looks at the page in the frame that keeps the code fresh without script, alone:
// a check from outside does not reach into it. It must show the code large enough for cameras on
// the narrowest screens too.
func TestBrowserFrame(t *testing.T) {
	t.Parallel()
	b := openShop(t, providertest.Options{HTTP: true}, nil)
	phone, p := b.telephone(), b.visit(chromium.PageOptions{Width: 360, Height: 640, Scale: 2, Mobile: true})
	p.WaitVisible("#qr-image")
	// Eight of its 45 modules are the quiet zone.
	if side := chromium.Eval[float64](p, "document.getElementById('qr-image').getBoundingClientRect().width"); side*37/45 < 240 {
		t.Errorf("the picture is %.0f pixels wide", side)
	}
	src := chromium.Eval[string](p, "new DOMParser().parseFromString(document.querySelector('noscript').textContent, 'text/html').querySelector('iframe').getAttribute('src')")
	p.Navigate(b.Issuer + src)
	// The frame exists to look again by itself, so that the page around it, which has the
	// heading, is left alone.
	except := []string{"meta-refresh", "page-has-heading-one"}
	look(t, p, "1-pending", except...)
	scan := phone.scan(p)
	p.Reload()
	code := p.Text("#check-code")
	look(t, p, "2-scanned", except...)
	phone.decide(scan, "approve", code)
	p.Reload()
	look(t, p, "3-approved", except...)
	p.Click("#qr-continue")
	b.signedIn(p)
}
