// Tables of text cells: read a piece at a time, written so that no spreadsheet takes a cell for a formula.

/** Which of tab, semicolon and comma the first line has most of. */
export function delimiterOf(head) {
  const line = head.replace(/"[^"]*"/g, '').split(/[\r\n]/, 1)[0];
  const count = (mark) => line.split(mark).length - 1;
  return ['\t', ';', ','].reduce((best, mark) => (count(mark) > count(best) ? mark : best), ',');
}

/** RFC 4180: `push` takes the next piece of text and gives the rows that are complete; `end` gives the last one. */
export class Rows {
  constructor(delimiter) {
    this.delimiter = delimiter;
    this.cells = [];
    this.cell = '';
    this.quoted = false; // within quotes
    this.closed = false; // after the quote that may end the cell, or be the first of two
    this.returned = false; // after a carriage return, whose newline is to come
  }

  push(text) {
    const rows = [];
    for (const char of text) {
      const returned = this.returned;
      this.returned = false;
      if (this.quoted) {
        if (char === '"') { this.quoted = false; this.closed = true; } else this.cell += char;
      } else if (char === '"' && (this.closed || this.cell === '')) {
        if (this.closed) this.cell += '"';
        this.quoted = true;
        this.closed = false;
      } else if (char === this.delimiter) {
        this.finish();
      } else if (char === '\r' || char === '\n') {
        if (char === '\n' && returned) continue;
        this.returned = char === '\r';
        rows.push(...this.row());
      } else {
        this.cell += char;
        this.closed = false;
      }
    }
    return rows;
  }

  end() {
    if (this.quoted) throw new Error('The file ends within a quoted cell.');
    return this.row();
  }

  finish() {
    this.cells.push(this.cell);
    this.cell = '';
    this.closed = false;
  }

  /** The row so far, unless it is a blank line. */
  row() {
    const blank = this.cells.length === 0 && this.cell === '' && !this.closed;
    this.finish();
    const cells = this.cells;
    this.cells = [];
    return blank ? [] : [cells];
  }
}

/** One line. A cell that a spreadsheet would run (=, +, -, @, tab) gets an apostrophe before it, numbers do not. */
export function line(cells, delimiter) {
  const safe = (cell) => (/^[=+\-@\t\r]/.test(cell) && !/^[+-]?[\d.,]+$/.test(cell) ? `'${cell}` : cell);
  const quote = (cell) => (/["\r\n]/.test(cell) || cell.includes(delimiter) ? `"${cell.replaceAll('"', '""')}"` : cell);
  return cells.map((cell) => quote(safe(cell))).join(delimiter) + '\r\n';
}
