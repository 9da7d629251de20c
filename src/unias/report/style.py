"""What never changes on the page: its style sheet and its explanations."""

from __future__ import annotations

HOW_TO_READ = """<div class="read">
<p><b>Photo, truth, map, marked.</b> The photo as the model saw it; the true defect in <b class="g">green</b>; the
model's map, untinted (looks as the good photos do) over blue and green to red (looks different); and what the model
marked, outlined in <b class="r">red</b>. The model learned from photos of good parts alone.</p>
<p><b>Score and cut.</b> A photo's score is the highest value of its map. Each product has one limit, its <i>cut</i>:
a photo above it fails, and only in photos that fail is something marked. The cut comes from good photos that were held
back from training; no photo on this page had a part in it. On this page 0.50 is the cut. A lower cut misses fewer
defects and gives more false alarms; a higher one the reverse.</p>
<p><b>Oracle and best.</b> Research papers choose the threshold that suits the test photos best, knowing the right
answers. Nobody on a production line knows them. Such figures are called <i>oracle</i> or <i>best</i> here; they are for
comparison with papers, and <i>label-free</i> is what to expect in use.</p>
<p><b>Empty mask.</b> In the DSC (Dice) a good photo in which nothing is marked counts as perfect. Marking nothing
anywhere therefore scores more than zero; the row <i>empty mask</i> says how much, and a DSC is worth what it has above
that.</p>
<p><b>Failure cases.</b> Under each product, the photos that went wrong by the most: a defect that stays below the cut,
another place that stands out more than it, a good photo above the cut. <i>Label doubtful</i> is a guess worth a look: a
good photo that looks worse than most defective ones, or a marked defect where the map sees nothing at all.</p></div>
"""

ABOUT_TABLE = """<p class="small">Mean: over the products where a figure is defined; – where it is not. AR here is the
definition (share of anomalous pixels in the defective photos); the AR columns printed in the paper's Tables 1 and 2 are
about three times that.</p>"""

CSS = """
:root{--ink:#1d2733;--soft:#5b6774;--line:#dfe4e8;--paper:#fff;--back:#f4f6f8;--blue:#245b7e;--red:#c4314b;--green:#1b7f4b}
*{box-sizing:border-box}
html{color-scheme:light;scroll-behavior:smooth}
body{margin:0;background:var(--back);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
.wrap{max-width:1240px;margin:0 auto;padding:0 24px}
header{background:linear-gradient(120deg,#16324a,#245b7e);color:#fff;padding:40px 0 26px}
h1{margin:0 0 4px;font-size:32px;line-height:1.2;letter-spacing:-.01em;overflow-wrap:anywhere}
header p{margin:0;opacity:.88}
nav{display:flex;flex-wrap:wrap;gap:8px;margin-top:18px}
nav a{color:#fff;text-decoration:none;background:rgba(255,255,255,.14);padding:4px 14px;
border-radius:99px;font-size:14px}
nav a:hover,nav a:focus{background:rgba(255,255,255,.3)}
main.wrap{padding-top:26px;padding-bottom:40px}
section{background:var(--paper);border:1px solid var(--line);border-radius:14px;padding:24px 26px;margin:0 0 22px}
h2{margin:0 0 10px;font-size:22px;line-height:1.25;overflow-wrap:anywhere}
.lead,.small{margin:0 0 12px;color:var(--soft)}
.small{font-size:13px;margin:12px 0 0}
section.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:14px;background:none;border:0;padding:0}
.card{background:var(--paper);border:1px solid var(--line);border-radius:14px;padding:18px 20px}
.card h3{margin:0;font-size:14px;font-weight:600;color:var(--soft)}
.card .figure{margin:2px 0 4px;font-size:38px;font-weight:650;line-height:1.15;color:var(--blue);
font-variant-numeric:tabular-nums}
.card .figure small{font-size:18px;font-weight:500;margin-left:3px}
.card p{margin:0;font-size:13px;line-height:1.4;color:var(--soft)}
.notes{padding:14px 26px;border-left:5px solid #e0a52a}
.notes ul{margin:0;padding-left:18px}
.scroll{overflow-x:auto;margin:0 -6px}
table.metrics{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;width:100%}
.metrics th,.metrics td{padding:7px 6px;text-align:right;border-bottom:1px solid var(--line)}
.metrics thead th{vertical-align:bottom;color:var(--soft);font-weight:600;font-size:11.5px;line-height:1.25;
border-bottom:2px solid var(--ink)}
.metrics thead th[title]{cursor:help}
.metrics th:first-child{text-align:left;position:sticky;left:0;background:var(--paper);min-width:96px;
max-width:200px;overflow-wrap:break-word}
.metrics tr.mean th,.metrics tr.mean td{font-weight:700;border-top:2px solid var(--ink)}
.metrics tr.empty th,.metrics tr.empty td{color:var(--soft);font-style:italic;font-weight:400}
.read{columns:2 340px;column-gap:36px;font-size:15px}
.read p{margin:0 0 12px;break-inside:avoid}
.g{color:var(--green)}.r{color:var(--red)}
dl.facts{display:flex;flex-wrap:wrap;gap:10px 30px;margin:0 0 18px}
dl.facts dt{font-size:12px;color:var(--soft)}
dl.facts dd{margin:0;font-size:20px;font-weight:650;font-variant-numeric:tabular-nums}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:20px;margin-bottom:8px}
figure{margin:0;max-width:560px}
img{max-width:100%;height:auto;display:block;border-radius:6px}
figcaption{font-size:13px;color:var(--soft);margin-top:4px}
.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,480px),1fr));gap:22px 26px;margin-top:18px}
.case{border-top:1px solid var(--line);padding-top:12px;min-width:0}
.case>img,details img{width:100%}
.what{margin:0 0 8px;font-size:14px;display:flex;flex-wrap:wrap;gap:2px 9px;align-items:baseline}
.key{color:var(--soft);font-size:12px;overflow-wrap:anywhere;order:9;flex:1 1 100%}
.verdict{margin-left:auto;font-size:13px;font-variant-numeric:tabular-nums;white-space:nowrap}
.note{font-size:12px;font-weight:600;border-radius:99px;padding:1px 10px;background:#e3f3ea;color:var(--green);
white-space:nowrap}
.note.wrong{background:#fbe6e9;color:var(--red)}
.names{display:grid;font-size:12px;color:var(--soft);text-align:center;margin-top:3px}
.n2{grid-template-columns:repeat(2,1fr)}.n3{grid-template-columns:repeat(3,1fr)}.n4{grid-template-columns:repeat(4,1fr)}
.n5{grid-template-columns:repeat(5,1fr)}
details{margin-top:6px;font-size:13px}
summary{cursor:pointer;color:var(--blue);margin-bottom:4px}
footer{border-top:1px solid var(--line);background:var(--paper);padding:18px 0 28px;font-size:13px}
footer dl{display:flex;flex-wrap:wrap;gap:6px 30px;margin:0}
footer dt{color:var(--soft);display:inline}
footer dt::after{content:": "}
footer dd{display:inline;margin:0;overflow-wrap:anywhere}
@media (max-width:640px){.wrap{padding:0 14px}section{padding:18px 16px}h1{font-size:25px}}
@media print{section{break-inside:auto}.case,.card{break-inside:avoid}header{background:#245b7e}}
"""
