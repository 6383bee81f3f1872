package chromium_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"image"
	"image/color"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/skip2/go-qrcode"

	"github.com/qrgrant/qrgrant/examples/internal/chromium"
)

var browser chromium.Shared

func TestMain(m *testing.M) {
	code := m.Run()
	if err := browser.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// serve answers every path with its page; what stands before POLICY is one.
func serve(t *testing.T, pages map[string]string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, ok := pages[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		if policy, rest, found := strings.Cut(page, "POLICY"); found {
			w.Header().Set("Content-Security-Policy", policy)
			page = rest
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Add("Set-Cookie", "seen=yes")
		cookie := r.Header.Get("Cookie")
		_, _ = io.WriteString(w, strings.NewReplacer("{cookie}", cookie, "{language}", r.Header.Get("Accept-Language"), "{form}", r.FormValue("field")).Replace("<!doctype html><html lang=en><title>x</title>"+page))
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

func TestPage(t *testing.T) {
	t.Parallel()
	base := serve(t, map[string]string{
		"/":      `<h1>Hello</h1><p id=cookie>{cookie}</p><p id=language>{language}</p><p id=hidden hidden>Hidden</p><iframe src=/frame></iframe><script>document.getElementById('language').title='script'</script>`,
		"/frame": `<div style="height:300px"></div><form action=/sent target=_top><input name=field value=old><button>Send</button></form>`,
		"/sent":  `<p id=sent>{form}</p>`,
	})
	for _, noScript := range []bool{false, true} {
		t.Run(fmt.Sprintf("noscript=%v", noScript), func(t *testing.T) {
			t.Parallel()
			p := browser.Page(t, chromium.PageOptions{NoScript: noScript, Language: "zh-CN", Dark: noScript})
			p.Navigate(base + "/")
			if got := p.Text("h1"); got != "Hello" {
				t.Errorf("heading %q", got)
			}
			if got := p.Text("#language"); !strings.HasPrefix(got, "zh") {
				t.Errorf("language %q", got)
			}
			if ran := chromium.Eval[string](p, "document.getElementById('language').title") == "script"; ran == noScript {
				t.Errorf("the page's script ran: %v", ran)
			}
			if dark := chromium.Eval[bool](p, "matchMedia('(prefers-color-scheme: dark)').matches"); dark != noScript {
				t.Errorf("dark: %v", dark)
			}
			if chromium.Eval[bool](p, "matchMedia('(scripting: none)').matches") != noScript {
				t.Errorf("the page does not know whether scripts run")
			}
			p.Reload()
			p.WaitText("seen=yes")
			p.Type("input", "new & ü")
			p.Click("button")
			p.WaitURL(base + "/sent")
			if got := p.Text("#sent"); got != "new & ü" {
				t.Errorf("sent %q", got)
			}
			other := browser.Page(t, chromium.PageOptions{})
			other.Navigate(base + "/")
			if got := chromium.Eval[string](other, "document.getElementById('cookie').textContent"); got != "" {
				t.Errorf("another page has the cookie %q", got)
			}
		})
	}
}

func TestFaultsAreCollected(t *testing.T) {
	t.Parallel()
	base := serve(t, map[string]string{
		"/style":     "default-src 'none'POLICY<p style='color:red'>styled</p>",
		"/image":     "default-src 'none'POLICY<img src=/nothing.png alt=x>",
		"/console":   `<script>console.error('said', 42)</script>`,
		"/exception": `<script>throw new Error('thrown')</script>`,
		"/form":      "form-action 'none'POLICY<form action=/nowhere><button>Go</button></form>",
		"/clean":     "default-src 'none'POLICY<p>clean</p>",
	})
	for _, row := range []struct {
		path, want string
		script     bool
	}{
		{"/style", "style-src", false},
		{"/image", "img-src", false},
		{"/console", "console: said 42", true},
		{"/exception", "thrown", true},
		{"/form", "form-action", false},
		{"/gone", "404", false},
		{"/clean", "", false},
	} {
		for _, noScript := range []bool{false, true} {
			if row.script && noScript {
				continue
			}
			t.Run(fmt.Sprintf("%s noscript=%v", row.path, noScript), func(t *testing.T) {
				t.Parallel()
				p := browser.Page(t, chromium.PageOptions{NoScript: noScript})
				p.Navigate(base + row.path)
				if row.path == "/form" {
					p.Click("button")
				}
				if row.want == "" {
					return // that there is none is checked at the end of every page
				}
				p.WaitFault(row.want)
				if rest := p.Faults(); slices.ContainsFunc(rest, func(f string) bool { return strings.Contains(f, row.want) }) {
					t.Errorf("expected, but still a fault: %q", rest)
				}
				p.Expect("") // one fault may be told in two ways
			})
		}
	}
}

func TestDecodeQR(t *testing.T) {
	t.Parallel()
	const says = "https://id.example/Q#1ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	code, err := qrcode.Encode(says, qrcode.Medium, 240)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/code.png" {
			_, _ = w.Write(code)
			return
		}
		_, _ = io.WriteString(w, `<!doctype html><html lang=en><title>x</title><body style="background:black"><div style="height:2000px"></div><img id=code src=/code.png alt=code>`)
	}))
	t.Cleanup(s.Close)
	p := browser.Page(t, chromium.PageOptions{})
	p.Navigate(s.URL)
	if got := p.DecodeQR("#code"); got != says {
		t.Errorf("element: %q", got)
	}
	if got := p.DecodeQR(""); got != says {
		t.Errorf("viewport: %q", got)
	}
	if got, err := chromium.ReadQR(p.Screenshot("code")); err != nil || got != says {
		t.Errorf("whole page: %q, %v", got, err)
	}
}

const cameraPage = `<p id=state>waiting</p><video id=v playsinline muted></video><script>
navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment', width: { ideal: 1280 } } }).then(async stream => {
  v.srcObject = stream; await v.play(); state.textContent = 'plays';
}, e => { state.textContent = e.name; });
window.middle = () => {
  const c = document.createElement('canvas'); c.width = v.videoWidth; c.height = v.videoHeight;
  const x = c.getContext('2d'); x.drawImage(v, 0, 0);
  return c.toDataURL('image/png').split(',')[1];
};
</script>`

func TestCamera(t *testing.T) {
	t.Parallel()
	base := serve(t, map[string]string{"/": cameraPage})
	feed := chromium.NewFeed(t)
	for name, row := range map[string]struct {
		o    chromium.Options
		want string
	}{
		"feed":   {chromium.Options{Feed: feed}, "plays"},
		"denied": {chromium.Options{DenyCamera: true}, "NotAllowedError"},
		"none":   {chromium.Options{}, "NotFoundError"},
	} {
		t.Run(name, func(t *testing.T) {
			p := chromium.New(t, row.o).Page(t, chromium.PageOptions{})
			p.Navigate(base + "/")
			p.WaitText(row.want)
			if row.o.Feed == nil {
				return
			}
			for _, says := range []string{"first code", "second code"} {
				code, err := qrcode.Encode(says, qrcode.Medium, 240)
				if err != nil {
					t.Fatal(err)
				}
				feed.Show(code)
				for over := time.Now().Add(20 * time.Second); ; {
					frame, err := base64.StdEncoding.DecodeString(chromium.Eval[string](p, "middle()"))
					if err != nil {
						t.Fatal(err)
					}
					if got, err := chromium.ReadQR(frame); got == says {
						break
					} else if time.Now().After(over) {
						t.Fatalf("the camera sees %q, %v", got, err)
					}
				}
			}
		})
	}
}

func TestEncodeY4MLeavesOddEdgesOut(t *testing.T) {
	t.Parallel()
	picture := image.NewRGBA(image.Rect(0, 0, 5, 3))
	picture.Set(0, 0, color.White)
	var out bytes.Buffer
	if err := chromium.EncodeY4M(&out, 25, picture); err != nil {
		t.Fatal(err)
	}
	header, frame, _ := bytes.Cut(out.Bytes(), []byte("\nFRAME\n"))
	if string(header) != "YUV4MPEG2 W4 H2 F25:1 Ip A1:1 C420" || len(frame) != 4*2+2*2 || frame[0] != 255 || frame[1] != 0 {
		t.Errorf("%s, %v", header, frame)
	}
}
