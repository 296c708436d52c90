import { useEffect, useRef } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

export interface Line {
  label: string;
  values: (number | null)[];
  low?: (number | null)[];
  high?: (number | null)[];
  dashed?: boolean;
}

const COLOURS = ["--line-1", "--line-2", "--line-3", "--line-4", "--line-5", "--line-6"];
const HEIGHT = 220;

/** Returns a colour of the style sheet as a canvas reads it. */
function colour(name: string, alpha = 1): string {
  const probe = document.createElement("i");
  probe.style.color = `color-mix(in srgb, var(${name}) ${alpha * 100}%, transparent)`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function draw(into: HTMLElement, x: number[], lines: Line[], share: boolean, times: boolean): uPlot {
  const series: uPlot.Series[] = [{}];
  const data: (number[] | (number | null)[])[] = [x];
  const bands: uPlot.Band[] = [];
  lines.forEach((line, index) => {
    const name = line.dashed ? "--quiet" : (COLOURS[index % COLOURS.length] ?? "--line-1");
    if (line.low && line.high) {
      bands.push({ series: [series.length, series.length + 1], fill: colour(name, 0.12) });
      series.push({ show: true, stroke: "transparent", points: { show: false }, label: "" });
      series.push({ show: true, stroke: "transparent", points: { show: false }, label: "" });
      data.push(line.high, line.low);
    }
    const style: uPlot.Series = { label: line.label, stroke: colour(name), width: 2, spanGaps: true };
    if (line.dashed) style.dash = [5, 4];
    series.push(style);
    data.push(line.values);
  });
  const axis: uPlot.Axis = {
    stroke: colour("--quiet"),
    grid: { stroke: colour("--edge"), width: 1 },
    ticks: { show: false },
  };
  return new uPlot(
    {
      width: into.clientWidth,
      height: HEIGHT,
      series,
      bands,
      legend: { show: false },
      cursor: { y: false },
      scales: { x: { time: times }, ...(share ? { y: { range: [0, 1] } } : {}) },
      axes: [
        { ...axis, space: 70 },
        {
          ...axis,
          size: 46,
          ...(share ? { values: (_, marks) => marks.map((mark) => `${Math.round(mark * 100)}%`) } : {}),
        },
      ],
    },
    data as uPlot.AlignedData,
    into,
  );
}

/** Lines over time or over steps, each with a band where it has an interval. `label` says what they show. */
export function Chart(props: {
  label: string;
  x: number[];
  lines: Line[];
  share?: boolean;
  times?: boolean;
}) {
  const { label, x, lines, share = false, times = false } = props;
  const into = useRef<HTMLDivElement>(null);
  useEffect(() => {
    const element = into.current;
    if (!element) return undefined;
    let chart = draw(element, x, lines, share, times);
    const again = () => {
      chart.destroy();
      chart = draw(element, x, lines, share, times);
    };
    const size = new ResizeObserver(() => chart.setSize({ width: element.clientWidth, height: HEIGHT }));
    size.observe(element);
    const theme = matchMedia("(prefers-color-scheme: dark)");
    theme.addEventListener("change", again);
    return () => {
      size.disconnect();
      theme.removeEventListener("change", again);
      chart.destroy();
    };
  }, [JSON.stringify([x, lines, share, times])]);
  return (
    <figure class="chart">
      <div ref={into} role="img" aria-label={label} />
      {lines.length > 1 && (
        <figcaption>
          {lines.map((line, index) => (
            <span key={line.label}>
              <i
                class={line.dashed ? "key dashed" : `key line-${(index % COLOURS.length) + 1}`}
                aria-hidden="true"
              />{" "}
              {line.label}
            </span>
          ))}
        </figcaption>
      )}
    </figure>
  );
}
