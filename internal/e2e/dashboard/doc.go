// Package dashboard looks at the admin page as people do: in a browser, over a real cluster whose workers reload and die.
package dashboard
