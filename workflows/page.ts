/** A small Markdown table for the Web UI; cells are kept on one line. Rows without a value are left out. */
export function factsTable(rows: readonly (readonly [string, string | number | undefined])[]): string {
  const lines = rows
    .filter(([, value]) => value !== undefined && value !== '')
    .map(([name, value]) => `| ${cell(name)} | ${cell(String(value))} |`);
  return lines.length === 0 ? '' : ['| | |', '|---|---|', ...lines].join('\n');
}

/** A Markdown table with a header. */
export function table(
  headers: readonly string[],
  rows: readonly (readonly (string | undefined)[])[],
): string {
  const line = (cells: readonly (string | undefined)[]) =>
    `| ${cells.map((text) => cell(text ?? '')).join(' | ')} |`;
  return [line(headers), line(headers.map(() => '---')), ...rows.map(line)].join('\n');
}

/** Bytes for people, in binary units. */
export function bytesText(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  const unit = bytes < 1 ? 0 : Math.min(units.length - 1, Math.floor(Math.log2(bytes) / 10));
  const value = bytes / 1024 ** unit;
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit] ?? ''}`;
}

/** A span of time for people: `45 s`, `12 min`, `3.5 h`, `2.1 d`. */
export function secondsText(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return seconds < 172_800 ? `${(seconds / 3600).toFixed(1)} h` : `${(seconds / 86_400).toFixed(1)} d`;
}

function cell(text: string): string {
  return text.replaceAll(/\s*\n\s*/g, ' ').replaceAll('|', '\\|');
}
