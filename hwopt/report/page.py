"""The frame of every page: style, the script of the interactive front, tables."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:1120px;margin:2em auto;padding:0 1em;color:#222}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:1.8em;border-bottom:1px solid #ddd}
table{border-collapse:collapse;font-size:13px;font-variant-numeric:tabular-nums;display:block;
overflow-x:auto}th,td{padding:2px 9px;text-align:right;white-space:nowrap}
th{border-bottom:1px solid #999}td:first-child,th:first-child{text-align:left}
tr.chosen{background:#fff3d6;font-weight:600}tr.hover{background:#e4f0fb}
.chart{width:100%;max-width:620px;font:11px system-ui,sans-serif}.chart .grid{stroke:#e6e6e6}
.columns{display:flex;flex-wrap:wrap;gap:24px}.columns>*{flex:1 1 440px;min-width:0}
.key::before{content:"";display:inline-block;width:10px;height:10px;border-radius:5px;
background:var(--c);margin:0 4px 0 10px}.keys,.note{color:#555;font-size:13px}
pre{background:#f6f6f6;padding:10px;overflow-x:auto;font-size:12px}select{font:inherit}
.tall{max-height:520px;overflow:auto}.tall th{position:sticky;top:0;background:#fff}
#tip{min-height:4.2em;font-size:13px;color:#333}
"""

SCRIPT = """
const D=JSON.parse(document.getElementById('data').textContent),S='http://www.w3.org/2000/svg';
const W=720,H=420,L=70,R=16,T=12,B=44,svg=document.getElementById('front');
const sel=['x','y','c'].map(i=>document.getElementById(i));
sel.forEach((s,i)=>{D.goals.forEach((g,j)=>s.add(new Option(g.name,j)));
 s.value=Math.min(i==2?D.goals.length-1:i,D.goals.length-1);s.onchange=draw});
const fmt=v=>{if(v==0)return'0';for(const[s,p]of[[1e12,'T'],[1e9,'G'],[1e6,'M'],[1e3,'k'],[1,''],
[1e-3,'m'],[1e-6,'\\u00b5'],[1e-9,'n']])if(Math.abs(v)>=s*.9995)return+(v/s).toPrecision(3)+p;
return v.toPrecision(2)};
function scale(j,a,b){const g=D.goals[j],v=D.rows.map(r=>r.v[j]*g.factor),f=g.log?Math.log:x=>x;
 let lo=Math.min(...v),hi=Math.max(...v);
 if(g.log){lo/=1.1;hi*=1.1}else{const m=(hi-lo)*.05||Math.abs(hi)*.05||1;lo-=m;hi+=m}
 const s=x=>a+(f(x)-f(lo))/((f(hi)-f(lo))||1)*(b-a);let t=[];
 if(g.log){const p0=Math.floor(Math.log10(lo)),p1=Math.ceil(Math.log10(hi));
  for(let p=p0;p<=p1;p++)for(const m of p1-p0>4?[1]:[1,2,5])t.push(m*10**p)}
 else{const r=(hi-lo)/5,p=10**Math.floor(Math.log10(r)),q=[1,2,5,10].find(m=>m*p>=r*.999)*p;
  for(let x=Math.ceil(lo/q)*q;x<=hi;x+=q)t.push(x)}
 return{s,t:t.filter(x=>x>=lo&&x<=hi)}}
function el(n,a,t){const e=document.createElementNS(S,n);for(const k in a)e.setAttribute(k,a[k]);
 if(t!==undefined)e.textContent=t;svg.append(e);return e}
function tip(r){document.getElementById('tip').textContent='design '+r.n+':  '+D.goals.map((g,j)=>
 g.name+' '+fmt(r.v[j]*g.factor)+(g.unit?' '+g.unit:'')).join(',  ')+'.  '+
 D.knobs.map((k,j)=>k+' = '+r.k[j]).join(',  ');
 document.querySelectorAll('tr.hover').forEach(e=>e.classList.remove('hover'));
 document.getElementById('d'+r.n)?.classList.add('hover')}
function draw(){svg.replaceChildren();const[xi,yi,ci]=sel.map(s=>+s.value);
 const X=scale(xi,L,W-R),Y=scale(yi,H-B,T),C=scale(ci,0,1),
  lab=g=>g.name+(g.unit?' ('+g.unit+')':'');
 for(const t of X.t){el('line',{class:'grid',x1:X.s(t),x2:X.s(t),y1:T,y2:H-B});
  el('text',{x:X.s(t),y:H-B+15,'text-anchor':'middle'},fmt(t))}
 for(const t of Y.t){el('line',{class:'grid',x1:L,x2:W-R,y1:Y.s(t),y2:Y.s(t)});
  el('text',{x:L-6,y:Y.s(t)+4,'text-anchor':'end'},fmt(t))}
 el('text',{x:(L+W-R)/2,y:H-6,'text-anchor':'middle'},lab(D.goals[xi]));
 el('text',{transform:`translate(14 ${(T+H-B)/2}) rotate(-90)`,'text-anchor':'middle'},
  lab(D.goals[yi]));
 for(const r of[...D.rows].sort((a,b)=>(a.n==D.chosen)-(b.n==D.chosen))){
  const c=C.s(r.v[ci]*D.goals[ci].factor),h=r.n==D.chosen;
  const e=el('circle',{cx:X.s(r.v[xi]*D.goals[xi].factor),cy:Y.s(r.v[yi]*D.goals[yi].factor),
   r:h?8:4,fill:`hsl(${Math.round(260-210*c)} 65% 48%)`,'fill-opacity':h?1:.7,
   stroke:h?'#d00':'none','stroke-width':3});
  e.onmouseenter=()=>tip(r);if(h)tip(r)}}
draw();
"""


def document(title: str, body: Sequence[str], style: str = "") -> str:
    """A whole page; `style` adds to the common one."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n<body>"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, escaped."""
    lines = "".join(f"<tr>{row_of(row, 'td')}</tr>" for row in rows)
    return f"<table><tr>{row_of(header, 'th')}</tr>{lines}</table>"


def row_of(cells: Sequence[str], tag: str) -> str:
    """The cells of one row, each in a `td` or `th`."""
    return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
