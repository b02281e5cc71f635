/** What is used of uPlot is checked by the browser tests. */
declare const uPlot: any;
export default uPlot;
