# SPDX-License-Identifier: Apache-2.0

"""Draws the timelines of the page about failures.

    python doc/timelines.py

Writes doc/source/admin/timelines.svg. Measured times are the medians of
bench/results/crash.json; a minute is the default of service_down_time and
restart_grace.
"""

import json
import pathlib
import xml.sax.saxutils as sax

ROOT = pathlib.Path(__file__).parents[1]
PICTURE = ROOT / 'doc/source/admin/timelines.svg'

#: Nova's service_down_time, and restart_grace with it
DOWN = 60
END = 80        # seconds, the end of the axis
LEFT, WIDTH, ROW, BAR = 150, 560, 24, 18

UP, NO_PLACE, DOUBT, LOST = 'up', 'noplace', 'doubt', 'down'
LEGEND = {UP: 'up', NO_PLACE: 'no new instances',
          DOUBT: 'nobody can tell: counts as up', LOST: 'down'}

STYLE = '''
text { font: 11px sans-serif; fill: #222; }
.title { font-weight: bold; }
.bar { stroke: #444; stroke-width: .5; }
rect.up { fill: #d7ead3; } rect.noplace { fill: url(#stripes); }
rect.doubt { fill: url(#dots); } rect.down { fill: #8c2d2d; }
text.down { fill: #fff; }
.axis { stroke: #888; stroke-width: .5; }
'''
PATTERNS = '''<defs>
<pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse"
 patternTransform="rotate(45)"><rect width="6" height="6" fill="#fdf1c7"/>
<rect width="2" height="6" fill="#ecd9a0"/></pattern>
<pattern id="dots" width="6" height="6" patternUnits="userSpaceOnUse">
<rect width="6" height="6" fill="#e8e8f2"/>
<circle cx="3" cy="3" r="1" fill="#b9b9d6"/></pattern>
</defs>'''


def failures(crash):
    """Return [(failure, [(driver, [(begin in seconds, phase)])])].

    :param crash: the content of crash.json
    """
    def seconds(driver, event):
        return crash[driver][event]['p50_ms'] / 1000

    def zk(event):
        return [(0, UP), (seconds('zk', event), NO_PLACE),
                (seconds('zk-host', event), LOST)]

    silent = [(0, UP), (DOWN, LOST)]
    return [
        ('The process of nova-compute is killed or crashes', [
            ('zk', zk('sigkill')),
            ("db, mc, Nova's own", silent)]),
        ('The service is stopped gracefully', [
            ('zk, db, mc', [(0, NO_PLACE), (DOWN, LOST)]),
            ("Nova's own", silent)]),
        ('The process hangs', [
            ("zk, db, mc, Nova's own", silent)]),
        ('The host loses power or network', [
            ('zk', zk('partition')),
            ("db, mc, Nova's own", silent)]),
        ('Half of the computes, or more, are cut off together', [
            ('zk', [(0, UP), (seconds('zk', 'partition'), DOUBT)]),
            ('db, mc', [(0, UP), (DOWN, DOUBT)]),
            ("Nova's own", silent)]),
        ('memcached or ZooKeeper cannot be reached', [
            ('mc, zk', [(0, UP), (DOWN, DOUBT)])]),
    ]


def text(x, y, content, **attributes):
    return '<text x="%g" y="%g"%s>%s</text>' % (
        x, y, ''.join(' %s="%s"' % (name.replace('_', '-').strip('-'), value)
                      for name, value in attributes.items()),
        sax.escape(content))


def label(phase, begin):
    """Return what is written into a bar."""
    if not begin:
        when = 'at once'
    elif begin >= DOWN:
        # What counts is the last heartbeat, which may be a while ago.
        when = 'after up to %d s' % DOWN
    else:
        when = 'after %s' % ('%.0f ms' % (begin * 1000) if begin < 1
                             else '%.1f s' % begin)
    return {UP: '', NO_PLACE: 'no new instances ' + when,
            DOUBT: 'counts as up', LOST: 'down ' + when}[phase]


def draw(crash):
    """Return the picture, SVG as str."""
    scale = WIDTH / END
    parts, y = [], 40
    for place, (phase, meaning) in enumerate(LEGEND.items()):
        x = LEFT + (0, 60, 200, 410)[place]
        parts.append('<rect class="bar %s" x="%d" y="10" width="14" '
                     'height="12"/>' % (phase, x))
        parts.append(text(x + 19, 20, meaning))
    for failure, rows in failures(crash):
        y += 10
        parts.append(text(8, y + 4, failure, class_='title'))
        y += 12
        for driver, phases in rows:
            parts.append(text(LEFT - 8, y + 13, driver, text_anchor='end'))
            before = ''     # what did not fit into its own bar
            ends = [begin for begin, _ in phases[1:]] + [END]
            for (begin, phase), end in zip(phases, ends):
                x, width = LEFT + begin * scale, (end - begin) * scale
                parts.append('<rect class="bar %s" x="%.1f" y="%d" '
                             'width="%.1f" height="%d"/>' % (
                                 phase, x, y, width, BAR))
                words = before + label(phase, begin)
                before = ''
                if len(words) * 5.8 + 6 < width:
                    parts.append(text(x + 4, y + 13, words, class_=phase))
                elif words:
                    before = words + ', '
            y += ROW
        y += 4
    for second in range(0, END + 1, 10):
        x = LEFT + second * scale
        parts.append('<line class="axis" x1="%.1f" y1="%d" x2="%.1f" '
                     'y2="%d"/>' % (x, y, x, y + 5))
        parts.append(text(x, y + 17, '%d s' % second, text_anchor='middle'))
    parts.append('<line class="axis" x1="%d" y1="%d" x2="%d" y2="%d"/>' % (
        LEFT, y, LEFT + WIDTH, y))
    return '\n'.join([
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d">' % (
            LEFT + WIDTH + 30, y + 28),
        '<style>%s</style>' % STYLE, PATTERNS,
        '<rect width="100%" height="100%" fill="#fff"/>', *parts, '</svg>',
        ''])


def main():
    PICTURE.write_text(draw(json.loads(
        (ROOT / 'bench/results/crash.json').read_text())))


if __name__ == '__main__':
    main()
