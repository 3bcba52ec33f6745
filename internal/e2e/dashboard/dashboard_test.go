//go:build linux

package dashboard

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// browser is a tab of a headless Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context
}

func startBrowser(t *testing.T) *browser {
	t.Helper()
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Fatal("there is no Chromium: scripts/setup installs it")
	}
	// As root Chromium starts only without its sandbox; the page is ours.
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.ExecPath(path))
	ctx, cancel := context.WithTimeout(context.Background(), 4*wait)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewExecAllocator(ctx, options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	return &browser{t, ctx}
}

func (b *browser) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, steps...); err != nil {
		b.t.Fatalf("%s: %v", what, err)
	}
}

func eval[T any](b *browser, js string) T {
	b.t.Helper()
	v, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](js))
	if err != nil {
		b.t.Fatalf("%s: %v", js, err)
	}
	return v
}

// shows waits until a JavaScript condition holds in the page.
func (b *browser) shows(what, js string) {
	b.t.Helper()
	eventually(b.t, what, func() bool { return eval[bool](b, js) })
}

func (b *browser) text(selector string) string {
	return eval[string](b, fmt.Sprintf("document.querySelector(%q)?.textContent ?? ''", selector))
}

func (b *browser) call(f func(context.Context) error) {
	b.t.Helper()
	b.do("a command of the browser", chromedp.Func(func(ctx context.Context, _ *chromedp.Target) error { return f(ctx) }))
}

func (b *browser) scripts(on bool) {
	b.call(func(ctx context.Context) error {
		_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on})
		return err
	})
}

func (b *browser) scheme(name string) {
	b.call(func(ctx context.Context) error {
		_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}})
		return err
	})
}

// screenshot keeps the page as it looks in .bin/screenshots of the repository.
func (b *browser) screenshot(name string) {
	b.t.Helper()
	png, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		b.t.Fatal(err)
	}
	dir := filepath.Join("..", "..", "..", ".bin", "screenshots")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644); err != nil {
		b.t.Fatal(err)
	}
}

const background = "getComputedStyle(document.body).backgroundColor"

func TestThePageInABrowser(t *testing.T) {
	s := startService(t)
	s.traffic(t)
	b := startBrowser(t)
	b.do("the window", chromedp.EmulateViewport(1440, 900))
	b.scheme("light")

	// The first paint is the server's.
	b.scripts(false)
	b.do("the page", chromedp.Navigate("http://"+s.page+"/"))
	if !strings.Contains(b.text("#words"), "healthy: 2/2 workers") || eval[int](b, "document.querySelectorAll('#workers tbody tr').length") != 2 ||
		eval[int](b, "document.querySelectorAll('.tile svg').length") == 0 {
		t.Errorf("without JavaScript the page shows %q", b.text("body"))
	}
	b.scripts(true)

	// What the policy refuses is heard from the first script on.
	b.call(func(ctx context.Context) error {
		_, err := chromedp.Call(ctx, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{
			Source: "window.violations = []; document.addEventListener('securitypolicyviolation', e => violations.push(e.violatedDirective + ' ' + e.blockedURI))"})
		return err
	})
	b.do("the page", chromedp.Navigate("http://"+s.page+"/"))
	b.shows("live frames", "document.querySelector('#live').textContent.trim() === 'live'")
	b.shows("the rate of requests", "parseFloat(document.querySelector('[data-key=rps] .figure').textContent) > 0")
	b.shows("each worker's rate", "[...document.querySelectorAll('#workers tbody tr')].some(r => parseFloat(r.cells[12].textContent) > 0)")
	b.shows("the route", "document.querySelector('#routes').textContent.includes('/products/{id}')")
	for _, card := range []string{"cache/products", "breaker/stock", "shop.baskets/"} {
		b.shows("the card of "+card, fmt.Sprintf("document.querySelector('#cards [data-key=%q]') !== null", card))
	}
	light := eval[string](b, background)
	b.screenshot("light")

	// Reload, and a dead worker.
	s.cmd.Process.Signal(syscall.SIGHUP)
	b.shows("the reload's mark", "document.querySelector('#tiles line.mark.reload') !== null")
	b.shows("both slots in their second generation", `[...document.querySelectorAll('#workers tbody tr.ready')].filter(r => r.cells[1].textContent === '2').length === 2`)
	b.shows("the old generation gone", "document.querySelectorAll('#workers tbody tr').length === 2")
	victim := eval[int](b, "parseInt(document.querySelector('#workers tbody tr').cells[2].textContent)")
	if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.shows("the death of a worker", "document.querySelector('#events').textContent.includes('ended by itself: signal: killed')")
	b.shows("its mark", "document.querySelector('#tiles line.mark.crash') !== null")

	// An open breaker is what one sees first.
	s.setStock(t, "open", func() bool { return eval[bool](b, "document.querySelector('.verdict.bad') !== null") })
	if got := b.text("#verdict"); !strings.Contains(got, "breaker stock is open") {
		t.Errorf("the verdict is %q", got)
	}
	b.scheme("dark")
	if dark := eval[string](b, background); dark == light {
		t.Errorf("dark and light have the same background, %s", dark)
	}
	b.screenshot("trouble-dark")
	s.setStock(t, "closed", func() bool { return eval[bool](b, "document.querySelector('.verdict.bad') === null") })
	b.do("the theme", chromedp.KeyEvent("t"), chromedp.KeyEvent("t"))
	if got := eval[string](b, background); got != light {
		t.Errorf("the theme chosen is light, the background %s, not %s", got, light)
	}

	// Filter and pause.
	b.do("the filter", chromedp.KeyEvent("/"))
	b.shows("that the filter has the focus", "document.activeElement.id === 'filter'")
	// The driver sends the character apart from the key, so that it arrives although the key was taken.
	eval[string](b, "document.querySelector('#filter').value = ''")
	b.do("the filter", chromedp.SendKeys("#filter", "stock"))
	b.shows("only what contains the text", "[...document.querySelectorAll('#cards > article')].filter(c => !c.hidden).length === 1")
	b.do("no filter", chromedp.KeyEvent("\x1b"))
	b.shows("everything again", "[...document.querySelectorAll('#cards > article')].every(c => !c.hidden)")
	b.do("pause", chromedp.KeyEvent("p"))
	b.shows("that it is paused", "document.querySelector('#live').textContent.trim() === 'paused'")
	held := b.text("#workers")
	eval[bool](b, "window.frames0 = 0, new EventSource('stream').addEventListener('message', () => window.frames0++), true")
	b.shows("frames that go by", "window.frames0 >= 3")
	if got := b.text("#workers"); got != held {
		t.Errorf("a paused page changed from %q to %q", held, got)
	}
	b.do("resume", chromedp.Click("#pause"))
	b.shows("newer figures", fmt.Sprintf("document.querySelector('#workers').textContent !== %s", quote(held)))

	// A phone.
	b.do("a narrow window", chromedp.EmulateViewport(390, 844))
	if got := eval[int](b, "document.documentElement.scrollWidth"); got > 390 {
		t.Errorf("the page is %d pixels wide in a window of 390", got)
	}
	b.screenshot("phone")

	if got := eval[[]string](b, "violations"); len(got) > 0 {
		t.Errorf("the policy was violated: %q", got)
	}
	for _, url := range eval[[]string](b, "performance.getEntriesByType('resource').map(e => e.name)") {
		if !strings.HasPrefix(url, "http://"+s.page+"/") {
			t.Errorf("the page asked for %s", url)
		}
	}
}

func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func TestViewersLeaveNothingBehind(t *testing.T) {
	s := startService(t)
	s.streams(t, 1)() // whatever the first one opens
	http.DefaultClient.CloseIdleConnections()
	var before int
	eventually(t, "the first viewer is gone", func() bool {
		n := s.descriptors(t)
		same := n == before
		before = n
		return same
	})
	closeAll := s.streams(t, 32)
	if n := s.descriptors(t); n < before+32 {
		t.Fatalf("%d descriptors with 32 viewers, %d without: they are not counted", n, before)
	}
	closeAll()
	eventually(t, fmt.Sprintf("the descriptors are %d again", before), func() bool { return s.descriptors(t) <= before })
}
